"""`yolo9000 benchmark`: what is timed, in what order; never how long it takes."""

from __future__ import annotations

import json

import pytest
import torch
from rich.console import Console

from yolo9000.benchmark import alternate, benchmark, ratio
from yolo9000.darknet.cfg import Cfg
from yolo9000.errors import ConfigError
from yolo9000.model import YOLO9000
from yolo9000.network import Network
from yolo9000.sources import demo_photos

STAGES = ["read", "letterbox", "backbone", "head", "decode", "suppress", "whole"]


@pytest.fixture(scope="module")
def model() -> YOLO9000:
    return YOLO9000(Network(Cfg.load("yolo9000-nano")), device="cpu")


@pytest.mark.parametrize("anchors", [1, 9, 100_000])
def test_every_stage_is_timed(model: YOLO9000, anchors: int) -> None:
    times = benchmark(model, demo_photos()[0], size=64, batch=2, rounds=2, anchors=anchors)
    assert list(times.seconds) == STAGES
    assert min(times.seconds.values()) > 0
    assert model.network.region is not None
    everywhere = model.network.region.num * 2 * 2
    assert times.anchors == min(anchors, everywhere)
    assert times.over_floor > 1
    assert (times.settings["size"], times.settings["batch"]) == ((64, 64), 2)
    about = json.loads(json.dumps(times.to_dict()))
    assert about["machine"]["torch"] == torch.__version__
    with (console := Console(width=200)).capture() as printed:
        times.show(console)
    assert all(stage in printed.get() for stage in STAGES)


def test_every_stage_is_of_one_size(model: YOLO9000, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the whole, of a model that looks at photos in several."""
    run, inputs = model.engine.features, []
    monkeypatch.setattr(
        model.engine, "features", lambda images: inputs.append(images.shape[-1]) or run(images)
    )
    monkeypatch.setitem(model.metadata, "sizes", "32 64")
    benchmark(model, demo_photos()[0], rounds=1)
    assert set(inputs) == {384}


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"batch": 0}, {"anchors": -1}, {"size": 33}])
def test_settings_out_of_range(model: YOLO9000, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        benchmark(model, demo_photos()[0], **wrong)  # type: ignore[arg-type]


def test_functions_take_turns() -> None:
    calls: list[str] = []
    times = alternate({name: lambda name=name: calls.append(name) for name in "abc"}, 4)  # type: ignore[misc]
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "abc"  # the first three are the warm-up
    assert {name: len(found) for name, found in times.items()} == {"a": 4, "b": 4, "c": 4}


def test_ratios_are_of_the_same_round() -> None:
    assert ratio({"ours": [2.0, 40.0, 3.0], "floor": [1.0, 10.0, 3.0]}, "ours", "floor") == 2.0
