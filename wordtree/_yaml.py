"""YAML whose keys stand once: of two, PyYAML would drop the first without a word."""

from __future__ import annotations

from typing import Any

import yaml


class _OnceEach:
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and first.setdefault(key.value, key) is not key:
                line = first[key.value].start_mark.line + 1
                problem = f"{key.value!r} stands in line {line} already; keep one of the two"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
        result: dict[Any, Any] = super().construct_mapping(node, deep)  # type: ignore[misc]
        return result


class UniqueKeyLoader(_OnceEach, yaml.SafeLoader):
    """Values as what they look like."""


class UniqueKeyTextLoader(_OnceEach, yaml.BaseLoader):
    """Every value as text."""
