"""Darknet's network descriptions (.cfg): reading them, with an error that names file, line, section and key.

A cfg is a list of sections, `[type]` followed by `key = value` lines. As in darknet (`parser.c`, `read_cfg`),
white space around values and anywhere in names means nothing, lines that begin with `#` or `;` are comments,
and where a key stands twice in a section the first one counts. Unlike darknet, a value that is no number, an
unknown layer or a missing key is an error, and keys that nobody reads are listed in `Cfg.unknown`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import NoReturn

from yolo9000.errors import CfgError

MAX_BYTES = 1 << 20  # bytes; the largest published cfg has 20 kB, so a larger file is something else
MAX_LAYERS = 2_000  # YOLOv2 has 32; even an empty layer takes a millisecond and some kilobytes
MAX_CLASSES = 1_000_000  # names alone would take 100 MB above this
_MAX_INT = 2**31 - 1  # darknet's fields are C ints
_BUILTIN = Path(str(resources.files("yolo9000") / "cfgs"))
_COMMENT = re.compile(rb"(?m)(?:^|[^\S\n])[#;][^\n]*")  # as `_read_sections` knows them

_ALIASES = {
    "network": "net",
    "conv": "convolutional",
    "max": "maxpool",
    "avg": "avgpool",
    "soft": "softmax",
}
# Keys that darknet's parser.c reads, by section; anything else is its "Unused field".
_SOLVER_KEYS = (
    "batch subdivisions time_steps notruth random learning_rate momentum decay adam B1 B2 eps inputs "
    "max_crop min_crop max_ratio min_ratio center clip angle aspect saturation exposure hue policy burn_in "
    "power max_batches step scale steps scales gamma"
)
_LAYER_KEYS = "onlyforward stopbackward dontsave dontload numload dontloadscales learning_rate smooth truth"
_KEYS = {
    "net": f"width height channels {_SOLVER_KEYS}",
    "convolutional": "filters size stride pad padding groups activation batch_normalize "
    "binary xnor flipped dot",
    "maxpool": "size stride padding",
    "avgpool": "",
    "route": "layers",
    "reorg": "stride reverse flatten extra",
    "shortcut": "from activation alpha beta",
    "upsample": "stride scale",
    "region": "anchors classes num coords softmax bias_match rescore object_scale noobject_scale "
    "class_scale coord_scale mask_scale thresh absolute random jitter tree map tied max log sqrt background "
    "classfix",
    "softmax": "groups temperature tree spatial noloss",
    "dropout": "probability",
    "cost": "type scale ratio noobj thresh",
}
# Keys with which forks of darknet compute something else, and the value that changes nothing ("": the layer's
# own stride). Passing over them would build another network than was trained.
FORK_KEYS: Mapping[str, Mapping[str, str]] = {
    "convolutional": {
        "dilation": "1",
        "stride_x": "",
        "stride_y": "",
        "antialiasing": "0",
        "assisted_excitation": "0",
        "coordconv": "0",
        "share_index": "-1000000000",  # none, in that fork
    },
    "maxpool": {"stride_x": "", "stride_y": "", "antialiasing": "0", "maxpool_depth": "0"},
    "route": {"groups": "1", "group_id": "0"},
    "shortcut": {"weights_type": "none", "weights_normalization": "none"},
}
# Those of darknet's that change its training and not ours, and the values that change nothing.
_UNTRAINED = {"onlyforward": 0, "learning_rate": 1, "smooth": 0, "truth": 0, "clip": 0}
KNOWN_KEYS: Mapping[str, frozenset[str]] = {
    name: frozenset(f"{keys} clip {_LAYER_KEYS}".split()).union(FORK_KEYS.get(name, ()))
    for name, keys in _KEYS.items()
}


@dataclass(frozen=True)
class Section:
    """One `[type]` block of a cfg.

    Attributes:
        name: The layer type, without brackets and with darknet's short forms spelled out.
        line: 1-based line of the `[type]`.
        options: Values by key, white space stripped; of repeated keys the first.
        lines: 1-based line of each key.
        path: The file, for messages.
    """

    name: str
    line: int
    options: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)
    path: Path | None = None

    def fail(self, problem: str, *, key: str | None = None, remedy: str | None = None) -> NoReturn:
        """Raise a `CfgError` that names the section, the key and its line."""
        line = self.line if key is None else self.lines.get(key, self.line)
        what = f"[{self.name}]" + ("" if key is None else f" {key}")
        raise CfgError(f"{what}: {problem}", path=self.path, line=line, remedy=remedy)

    def get_str(self, key: str, default: str | None = None) -> str:
        """The text of a key; a `CfgError` where it is missing and `default` is None."""
        value = self.options.get(key, default)
        if value is None:
            self.fail("is missing.", key=key, remedy=f"Add a line `{key}=...` to the section.")
        return value

    def get_int(
        self, key: str, default: int | None = None, *, minimum: int = -_MAX_INT, maximum: int = _MAX_INT
    ) -> int:
        """A whole number in `minimum` .. `maximum`; a `CfgError` names the key otherwise."""
        if key not in self.options and default is not None:
            return default
        return self._int(key, self.get_str(key), minimum, maximum)

    def get_ints(self, key: str) -> tuple[int, ...]:
        """Whole numbers separated by commas."""
        return tuple(self._int(key, part, -_MAX_INT, _MAX_INT) for part in self._parts(key))

    def get_float(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        if key not in self.options and default is not None:
            return default
        return self._float(key, self.get_str(key))

    def get_floats(self, key: str) -> tuple[float, ...]:
        """Finite numbers separated by commas."""
        return tuple(self._float(key, part) for part in self._parts(key))

    def get_bool(self, key: str, default: bool = False) -> bool:
        """A switch: 0 is off, any other whole number on."""
        return self.get_int(key, int(default)) != 0

    def _parts(self, key: str) -> list[str]:
        parts = self.get_str(key).split(",")
        if several := next((part for part in parts if len(part.split()) > 1), None):
            self.fail(f"expected commas between numbers, got {_short(several.strip())}.", key=key)
        return parts

    def _int(self, key: str, text: str, minimum: int, maximum: int) -> int:
        text = text.strip()
        if not re.fullmatch(r"[+-]?[0-9]{1,12}", text):
            self.fail(f"expected a whole number, got {_short(text)}.", key=key)
        value = int(text)
        if not minimum <= value <= maximum:
            low, high = max(minimum, -_MAX_INT), min(maximum, _MAX_INT)
            self.fail(f"expected a whole number from {low:,} to {high:,}, got {value:,}.", key=key)
        return value

    def _float(self, key: str, text: str) -> float:
        try:
            value = math.nan if "_" in text else float(text.strip())  # Python's 1_0 is C's 1
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self.fail(f"expected a number, got {_short(text.strip())}.", key=key)
        return value


@dataclass(frozen=True)
class RegionConfig:
    """The `[region]` section: darknet's detection layer, `region_layer.c`; defaults are darknet's.

    Attributes:
        anchors: Width and height of each prior, in grid cells.
        classes: Tree nodes N, or classes of a flat list.
        num: Anchors A per cell.
        coords: Box numbers per anchor; always 4.
        softmax: Classes compete (softmax) rather than being independent.
        bias_match: The anchor responsible for a truth is chosen by prior shape alone.
        rescore: Objectness is trained towards the IoU instead of 1.
        object_scale, noobject_scale, class_scale, coord_scale: Weights of the loss terms.
        thresh: IoU above which an unmatched anchor is not pushed towards "no object".
        absolute, random, jitter: Darknet's training switches, kept as they stand.
        tree, map: Files named by the cfg, or None.
        tied: Our extension: all anchors share one set of class rows. The last convolution of our cfg then has
            num * 5 + classes filters; a .weights file always holds the expanded num * (5 + classes).
    """

    anchors: tuple[tuple[float, float], ...]
    classes: int
    num: int
    coords: int = 4
    softmax: bool = False
    bias_match: bool = False
    rescore: bool = False
    object_scale: float = 1.0
    noobject_scale: float = 1.0
    class_scale: float = 1.0
    coord_scale: float = 1.0
    thresh: float = 0.5
    absolute: bool = False
    random: bool = False
    jitter: float = 0.2
    tree: str | None = None
    map: str | None = None
    tied: bool = False

    @classmethod
    def from_section(cls, section: Section) -> RegionConfig:
        """Read and check a `[region]` section.

        Raises:
            CfgError: A key is missing, no number, or contradicts another.
        """
        num = section.get_int("num", 1, minimum=1, maximum=1000)
        values = section.get_floats("anchors")
        if len(values) != 2 * num:
            section.fail(
                f"expected {2 * num} numbers (width, height for each of num={num}), got {len(values)}.",
                key="anchors",
            )
        if min(values) <= 0:
            section.fail(f"expected sizes above 0 grid cells, got {min(values)}.", key="anchors")
        if section.get_bool("background"):
            section.fail(
                "a background class instead of objectness is not supported; only 0.", key="background"
            )
        return cls(
            anchors=tuple(zip(values[::2], values[1::2], strict=True)),
            classes=section.get_int("classes", 20, minimum=1, maximum=MAX_CLASSES),
            num=num,
            coords=section.get_int("coords", 4, minimum=4, maximum=4),
            softmax=section.get_bool("softmax"),
            bias_match=section.get_bool("bias_match"),
            rescore=section.get_bool("rescore"),
            object_scale=section.get_float("object_scale", 1.0),
            noobject_scale=section.get_float("noobject_scale", 1.0),
            class_scale=section.get_float("class_scale", 1.0),
            coord_scale=section.get_float("coord_scale", 1.0),
            thresh=section.get_float("thresh", 0.5),
            absolute=section.get_bool("absolute"),
            random=section.get_bool("random"),
            jitter=section.get_float("jitter", 0.2),
            tree=section.options.get("tree") or None,
            map=section.options.get("map") or None,
            tied=section.get_bool("tied"),
        )


@dataclass(frozen=True)
class Cfg:
    """A parsed network description.

    Attributes:
        sections: `[net]` first, then one section per layer.
        text: The text as read; `Cfg.parse(cfg.text)` gives an equal description.
        path: The file it came from, or None.
    """

    sections: tuple[Section, ...]
    text: str
    path: Path | None = None

    @classmethod
    def load(cls, source: str | Path) -> Cfg:
        """Read a cfg file, or one that the package brings (see `builtin_cfgs`).

        Args:
            source: A path, or the name of a built-in description such as `"yolo9000"`.

        Raises:
            CfgError: No such file or name, or its content is no cfg.
        """
        path = Path(source)
        try:
            if not path.is_file() and str(source) in builtin_cfgs():
                path = _BUILTIN / f"{source}.cfg"
            with path.open("rb") as stream:
                content = stream.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a path that no file can have
            raise CfgError(
                f"cannot be read ({getattr(error, 'strerror', None) or error}).",
                path=path,
                remedy=f"Built-in descriptions: {', '.join(builtin_cfgs())}.",
            ) from error
        if len(content) > MAX_BYTES:
            raise CfgError(f"more than {MAX_BYTES:,} bytes; a cfg is a short text.", path=path)
        return cls.parse(_decode(content, path), path)

    @classmethod
    def parse(cls, text: str, path: str | Path | None = None) -> Cfg:
        """Parse the text of a cfg.

        Args:
            text: The description.
            path: Where it came from, for messages and for files it names.

        Raises:
            CfgError: A line that is neither section, option nor comment; an unknown layer; no `[net]` on top;
                more than `MAX_LAYERS` layers.
        """
        path = None if path is None else Path(path)
        sections = tuple(_read_sections(text, path))
        if not sections:
            raise CfgError("holds no section; expected [net] and layers.", path=path)
        for section in sections:
            if section.name not in KNOWN_KEYS:
                section.fail(f"unsupported layer. Supported: {', '.join(sorted(KNOWN_KEYS))}.")
        if sections[0].name != "net":
            sections[0].fail("expected [net] as the first section.")
        for section in sections[1:]:
            if section.name == "net":
                section.fail(f"a second [net]; the first is on line {sections[0].line}.")
        return cls(sections, text, path)

    @property
    def net(self) -> Section:
        """The `[net]` section."""
        return self.sections[0]

    @property
    def layers(self) -> tuple[Section, ...]:
        """The layer sections; their positions are the layer indices of `route` and of darknet's listing."""
        return self.sections[1:]

    @property
    def width(self) -> int:
        """Input width, pixels."""
        return self.net.get_int("width", minimum=1, maximum=1 << 16)

    @property
    def height(self) -> int:
        """Input height, pixels."""
        return self.net.get_int("height", minimum=1, maximum=1 << 16)

    @property
    def channels(self) -> int:
        """Input channels."""
        return self.net.get_int("channels", minimum=1, maximum=1 << 16)

    @cached_property
    def region(self) -> RegionConfig | None:
        """The detection layer, or None for a classifier."""
        found = [section for section in self.layers if section.name == "region"]
        return RegionConfig.from_section(found[0]) if found else None

    @property
    def frozen(self) -> int:
        """How many of the first layers stay as they are in training: up to the last with `stopbackward=1`.

        Backpropagation ends there (`network.c`, `backward_network`).
        """
        stops = [i for i, layer in enumerate(self.layers, start=1) if layer.get_bool("stopbackward")]
        return max(stops, default=0)

    @property
    def untrained(self) -> tuple[str, ...]:
        """Options of layers with which darknet would train otherwise than we do, as in `unknown`."""
        return tuple(
            f"line {layer.lines[key]}: [{layer.name}] {key}"
            for layer in self.layers
            for key, neutral in _UNTRAINED.items()
            if key in layer.options and layer.get_float(key) != neutral
        )

    @property
    def unknown(self) -> tuple[str, ...]:
        """Options that no layer reads, as `"line 7: [maxpool] sise"`: often a misspelled key."""
        return tuple(
            f"line {section.lines[key]}: [{section.name}] {key}"
            for section in self.sections
            for key in section.options
            if key not in KNOWN_KEYS[section.name]
        )


def builtin_cfgs() -> tuple[str, ...]:
    """Names of the descriptions that come with the package, sorted."""
    return tuple(sorted(file.stem for file in _BUILTIN.glob("*.cfg")))


def search_places(path: Path | None, name: str) -> list[Path]:
    """Where a file of a cfg may be: its tree, or the names of its classes.

    Args:
        path: The cfg; None where there was none.
        name: As the cfg names it.

    Returns:
        In each of `search_folders`, and in `data/` there.
    """
    folders = search_folders(path)
    return list(dict.fromkeys(place for each in folders for place in (each / name, each / "data" / name)))


def search_folders(path: Path | None) -> list[Path]:
    """Folders from which relative paths in a darknet file may count: its own, the two above, the current one.

    Darknet runs in its own folder, and reads cfgs in `cfg/` and trees in `data/` below that. A built-in cfg
    means what comes with the package, whatever the current folder holds.

    Args:
        path: The file; None where there was none.
    """
    if path is not None and path.parent == _BUILTIN:
        return [_BUILTIN]
    own = [] if path is None else [Path(os.path.abspath(path)).parent]  # noqa: PTH100  (links stay links)
    above = [folder for each in own for folder in (each.parent, each.parent.parent)]
    return list(dict.fromkeys([*own, *above, Path.cwd()]))


def _decode(content: bytes, path: Path) -> str:
    """Bytes as UTF-8; comments may be in any encoding, and what is no UTF-8 in them becomes U+FFFD."""
    try:
        _COMMENT.sub(lambda comment: b" " * len(comment[0]), content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CfgError(
            f"byte {error.start} is not UTF-8 text.",
            path=path,
            line=content.count(b"\n", 0, error.start) + 1,
            remedy="Save it as UTF-8. Or is this a .weights file?",
        ) from error
    return content.decode("utf-8-sig", "replace")


def _read_sections(text: str, path: Path | None) -> list[Section]:
    sections: list[Section] = []
    options: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip().strip("\0\x1a")  # \x1a: the end of a file in DOS
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            if len(sections) > MAX_LAYERS:
                raise CfgError(f"more layers than the limit of {MAX_LAYERS:,}.", path=path, line=number)
            options, lines = {}, {}
            sections.append(Section(_section_name(line, number, path), number, options, lines, path))
            continue
        key, equals, value = line.partition("=")
        key = "".join(key.split())
        if not equals or not key or not sections:
            problem = (
                "an option before the first section"
                if equals and key
                else "neither [section], key=value nor #"
            )
            remedy = "A key and all its values stand on one line, below the [section]."
            raise CfgError(f"{problem}: {_short(line)}.", path=path, line=number, remedy=remedy)
        # A comment behind a value: darknet's atoi stops there by itself. A path may hold `#`.
        value = re.split(r"\s[#;]", value, maxsplit=1)[0].strip()
        if key not in options:
            options[key], lines[key] = value, number
    return sections


def _section_name(line: str, number: int, path: Path | None) -> str:
    match = re.fullmatch(r"\[([\w\s]+)\](?:\s*[#;].*)?", line)
    name = "".join(match[1].split()) if match else ""
    if not name:
        raise CfgError(
            f"expected a section such as [convolutional], got {_short(line)}.", path=path, line=number
        )
    return _ALIASES.get(name, name)


def _short(text: str) -> str:
    """Quote foreign text for a message, cut to a readable length."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
