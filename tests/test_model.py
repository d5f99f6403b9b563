"""YOLO9000: loading, one picture and many, geometry, settings; with tiny networks of hand-set weights."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from toys import CLASSIFIED, PETS, POOL, conv, input_size, linear, region
from wordtree.tree import WordTree
from yolo9000 import YOLO9000
from yolo9000.checkpoint import load_model, save_model
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.weights import save_weights
from yolo9000.engine import Engine
from yolo9000.errors import CfgError, ConfigError, ImageError, WeightsError
from yolo9000.model import pick_device
from yolo9000.network import Network

TRUNK = input_size(96, 64) + POOL * 4 + conv(3, 1, "linear") + POOL
CFG = TRUNK + linear(10) + region(5, "1,1", softmax=1)
WHITE = np.full((64, 96, 3), 255, np.uint8)


def bright_finder(cfg: str = CFG, tree: WordTree | None = PETS) -> Network:
    """A network set by hand: an object wherever a 32-pixel cell holds bright red, the size of the cell."""
    net = Network(Cfg.parse(cfg), tree)
    assert net.head is not None
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.zero_()
            if name.endswith("conv.weight"):
                parameter[range(3), range(3)] = 1.0  # pass the colours through
            elif ".bn." in name and name.endswith("weight"):
                parameter.fill_(1.0)
        net.head.box_weight[0, 4, 0] = 40.0  # objectness: sigmoid(40 red - 30)
        net.head.box_bias[0, 4] = -30.0
        if tree is PETS:
            net.head.class_bias[0] = torch.tensor([2.0, 0.0, 0.0, 3.0, 0.0])  # animal .88, dog .95, pug 1
    return net.eval()


def spot(height: int, width: int, top: int, left: int, side: int) -> Tensor:
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, top : top + side, left : left + side] = 255
    return image


@pytest.fixture
def model() -> YOLO9000:
    return YOLO9000(bright_finder(), device="cpu")


def test_box_and_path_of_a_bright_cell(model: YOLO9000) -> None:
    found = model.detect(spot(64, 96, 32, 64, 32))
    assert len(found) == 1
    assert found[0].box == pytest.approx((64, 32, 96, 64))
    assert found[0].label == "pug"
    animal, dog = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-3))
    assert found[0].score == pytest.approx(animal * dog, rel=1e-3)
    assert [name for name, _ in found[0].path] == ["animal", "dog", "pug"]
    assert [p for _, p in found[0].path] == pytest.approx([animal, animal * dog, animal * dog], rel=1e-3)
    assert (found.image_size, found.source) == ((64, 96), None)


def test_hier_threshold_stops_higher(model: YOLO9000) -> None:
    image = spot(64, 96, 32, 64, 32)
    assert model.detect(image, hier_threshold=0.85).labels == ["animal"]
    assert model.detect(image, hier_threshold=1.0).labels == ["animal"]
    assert model.detect(image, hier_threshold=0.85).relabel(leaves=True).labels == ["pug"]


@pytest.mark.parametrize(
    ("place", "bad"),
    [
        ("layers.4.conv.weight", math.nan),
        ("layers.4.bn.running_mean", math.inf),
        ("layers.4.bn.running_var", -1.0),
        ("head.box_bias", -math.inf),
        ("head.class_bias", math.nan),
        ("head.class_bias", math.inf),
        ("head.class_bias", -math.inf),
    ],
)
def test_numbers_that_are_none_are_no_empty_picture(place: str, bad: float) -> None:
    for cfg, tree in (
        (CFG, PETS),
        (CFG, WordTree.flat(PETS.names)),
        (CFG.replace("softmax=1", "softmax=0"), None),
    ):
        network = bright_finder(cfg, tree)
        network.state_dict()[place].view(-1)[0] = bad
        with pytest.raises(WeightsError, match=f"weights hold NaN, infinity .* in {place}"):
            YOLO9000(network, device="cpu")


@pytest.mark.parametrize(
    "place", ["layers.4.conv.weight", "head.box_bias", "head.class_bias", "head.class_weight"]
)
def test_output_that_is_no_number_is_no_empty_picture(place: str) -> None:
    for tree in (PETS, WordTree.flat(PETS.names)):
        model = YOLO9000(bright_finder(CFG, tree), device="cpu")
        assert isinstance(model.engine, Engine)
        model.engine.network.state_dict()[place].fill_(math.nan)
        with pytest.raises(WeightsError, match="the network's output holds NaN or infinity"):
            model.detect(spot(64, 96, 32, 64, 32))


def test_boxes_come_back_through_the_letterbox(model: YOLO9000) -> None:
    """A picture of 192 × 384 pixels fills 48 rows of 64 in the input: cells are 128 pixels wide."""
    image = torch.zeros(3, 192, 384, dtype=torch.uint8)
    image[:, :, 256:] = 255
    found = model.detect(image)
    # Input rows 0..31 and 32..63, 8 of them grey: rows −32..96 and 96..224 of the picture, then clipped.
    assert sorted(d.box for d in found) == [
        pytest.approx((256, 0, 384, 96), abs=0.1),
        pytest.approx((256, 96, 384, 192), abs=0.1),
    ]


def test_all_sources_agree(model: YOLO9000, tmp_path: Path) -> None:
    tensor = spot(50, 80, 10, 20, 30)
    array = tensor.permute(1, 2, 0).numpy()
    path = tmp_path / "spot.png"
    Image.fromarray(array).save(path)
    expected = model.detect(tensor).to_dict()
    assert expected["detections"]
    for source in (
        array,
        array / 255.0,
        tensor / 255,
        Image.fromarray(array),
        path,
        str(path),
        path.read_bytes(),
        bytearray(path.read_bytes()),
        memoryview(path.read_bytes()),
        io.BytesIO(path.read_bytes()),
    ):
        got = model.detect(source).to_dict()
        named = isinstance(source, str | Path)
        assert got | {"source": None} == expected
        assert got["source"] == (str(path) if named else None)


def test_numbers_are_of_the_engines_precision(model: YOLO9000) -> None:
    """Also where somebody detects in the middle of a training."""
    image = spot(64, 96, 32, 64, 32) // 255 * 200
    expected = model.detect(image).to_dict()
    assert expected["detections"]
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        assert model.detect(image).to_dict() == expected


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_many_equal_one_by_one_in_order(model: YOLO9000, batch: int) -> None:
    images = [spot(64 + 7 * k, 96, 32, 8 * k, 32) for k in range(7)]
    one_by_one = [model.detect(image).to_dict() for image in images]
    assert [found.to_dict() for found in model.detect(images, batch=batch)] == one_by_one


def test_iterables_stream(model: YOLO9000) -> None:
    read = []

    def source() -> Iterator[np.ndarray]:
        for number in range(10):
            read.append(number)
            yield WHITE

    results = model.detect(source(), batch=2)
    assert read == []
    next(results)
    assert read == [0, 1]
    assert len(list(results)) == 9
    assert len(list(model.detect(np.stack([WHITE] * 3)))) == 3
    assert len(list(model.detect(torch.zeros(3, 3, 64, 96)))) == 3
    assert list(model.detect([])) == []


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_what_comes_before_an_unreadable_picture_is_given(model: YOLO9000, batch: int) -> None:
    given = []
    with pytest.raises(ImageError, match=r"gone\.jpg: no such file"):
        given.extend(model.detect([WHITE, WHITE, "gone.jpg", WHITE], batch=batch))
    assert len(given) == 2


def test_nothing_found(model: YOLO9000) -> None:
    found = model.detect(np.zeros((10, 10, 3), np.uint8))
    assert len(found) == 0
    assert list(found) == []
    assert found.to_json()


def test_a_box_in_the_grey_alone_is_dropped(model: YOLO9000) -> None:
    """The network is fooled into seeing objects everywhere, the grey bars included."""
    with torch.no_grad():
        assert model.engine.network.head is not None
        model.engine.network.head.box_bias[0, 4] = 30.0
        model.engine.network.head.box_bias[0, 2:4] = -9.0  # and tiny ones
    found = model.detect(np.zeros((4, 96, 3), np.uint8), hier_threshold=1)
    assert len(found) == 0


def test_flat_class_list() -> None:
    cfg = TRUNK + linear(25) + region(20, "1,1", softmax=1)
    model = YOLO9000(bright_finder(cfg, None), device="cpu")
    assert model.tree.max_depth == 0
    found = model.detect(spot(64, 96, 32, 64, 32), threshold=0.04)
    assert len(found) == 20
    assert len(model.detect(spot(64, 96, 32, 64, 32), threshold=0.06)) == 0


def test_darknet_decoder_scores_by_objectness(model: YOLO9000) -> None:
    found = model.detect(spot(64, 96, 32, 64, 32), decoder="darknet")
    assert found.scores == pytest.approx(found.objectness)


def test_sizes(model: YOLO9000) -> None:
    image = spot(64, 96, 0, 0, 64)
    assert model.input_size(None) == (64, 96)
    model.detect(image, size=64)
    model.detect(image, size=(32, 128))
    with pytest.raises(
        ConfigError, match="multiple of 32 from 32 to 4096 pixels, found 100; the nearest is 96"
    ):
        model.detect(image, size=100)
    with pytest.raises(ConfigError, match="found 0; the nearest is 32"):
        model.detect(image, size=(64, 0))
    with pytest.raises(ConfigError, match="found 8192; the nearest is 4096"):
        model.detect([image], size=8192)


def test_a_size_that_leaves_a_layer_nothing() -> None:
    text = input_size(64) + POOL + POOL + conv(8, 5, pad=0) + linear(10) + region(5, "1,1")
    model = YOLO9000(Network(Cfg.parse(text), PETS), device="cpu")
    assert model.input_size(20) == (20, 20)
    with pytest.raises(CfgError, match=r"layer 2 would have output 8 x 0 x 0; .*Raise the input size"):
        model.detect(torch.zeros(3, 9, 9), size=16)


def test_a_cfgs_own_size_need_not_fit_the_stride() -> None:
    """As in darknet. A cell of the 4 x 2 grid is a quarter of the width, half of the height."""
    uneven = YOLO9000(bright_finder(CFG.replace("width=96", "width=100").replace("height=64", "height=60")))
    (found,) = uneven.detect(spot(60, 100, 0, 32, 32))
    assert found.box == pytest.approx((25, 0, 50, 30))
    assert len(uneven.detect(spot(60, 100, 0, 32, 32), size=(60, 100))) == 1
    with pytest.raises(ConfigError, match="found 100; the nearest is 96"):
        uneven.detect(WHITE, size=100)


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 1.5},
        {"threshold": -0.1},
        {"hier_threshold": 2},
        {"nms": float("nan")},
        {"decoder": "best"},
    ],
)
def test_settings_are_checked_at_once(model: YOLO9000, wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        model.detect([WHITE], **wrong)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="batch must be at least 1"):
        model.detect([WHITE], batch=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": "64"}, "size must be a whole number, found '64'"),
        ({"size": (64.0, 64)}, "size must be a whole number, found 64.0"),
        ({"size": (64,)}, r"size must be one number or \(height, width\), found \(64,\)"),
        ({"batch": None}, "batch must be a whole number, found None"),
        ({"under": None}, "under must be the name or id of a node, or a list of them, found None"),
    ],
)
def test_settings_of_wrong_types(model: YOLO9000, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model.detect([WHITE], **wrong)  # type: ignore[call-overload]


def test_settings_may_be_numpys_numbers(model: YOLO9000) -> None:
    image = spot(64, 96, 32, 64, 32)
    numpys = {"threshold": np.float32(0.25), "depth": np.int64(0), "size": np.int32(64), "batch": np.int8(2)}
    (found,) = model.detect([image], **numpys)
    assert found.to_json() == model.detect(image, threshold=0.25, depth=0, size=64).to_json()


@pytest.mark.parametrize("wrong", [{"source": 5}, {"source": b"yolo9000-nano"}, {"weights": [], "cfg": "x"}])
def test_models_are_paths_and_names(wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(
        ConfigError, match=re.escape(f"{name} must be a path or the name of a model, found {value!r}")
    ):
        YOLO9000.load(**wrong)


def test_wrong_sources(model: YOLO9000) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.jpg: no such file"):
        model.detect("nowhere.jpg")
    with pytest.raises(ConfigError, match="an iterable of pictures, found int; a camera is a text"):
        model.detect(3)  # type: ignore[call-overload]


def test_a_name_is_no_network() -> None:
    with pytest.raises(ConfigError, match=r"found 'yolo9000-nano'\. YOLO9000\.load reads a model"):
        YOLO9000("yolo9000-nano")  # type: ignore[arg-type]


def test_save_and_load(model: YOLO9000, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model.metadata["threshold"] = "0.9"
    model.save(path)
    again = YOLO9000.load(path, device="cpu")
    assert again.tree == PETS
    assert (again.threshold, model.threshold) == (0.9, 0.9)
    image = spot(64, 96, 32, 64, 32)
    assert len(again.detect(image)) == 0
    assert again.detect(image, threshold=0.2).to_dict() == model.detect(image, threshold=0.2).to_dict()
    again.save(path, half=True)
    assert YOLO9000.load(str(path)).metadata["threshold"] == "0.9"


def test_a_model_may_say_how_sure_labels_are(model: YOLO9000, tmp_path: Path) -> None:
    image, path = spot(64, 96, 32, 64, 32), tmp_path / "m.safetensors"
    assert model.hier_threshold == 0.5
    for wrong in ("high", "nan", "2", "-1"):
        model.metadata["hier_threshold"] = wrong
        assert model.hier_threshold == 0.5
    model.metadata["hier_threshold"] = "0.85"
    model.save(path)
    again = YOLO9000.load(path, device="cpu")
    assert again.hier_threshold == 0.85
    assert again.detect(image).labels == ["animal"]
    assert again.detect(image, hier_threshold=0.5).labels == ["pug"]
    assert again.detect(image, hier_threshold={"dog": 0.5}).labels == ["pug"]  # of the animal it is sure
    assert again.detect(image, hier_threshold={"*": 0.9, "dog": 0.5}).labels == ["animal"]
    for rule in ({"depth": 1}, {"leaves": True}):
        assert again.detect(image, **rule).labels == model.detect(image, **rule).labels
    model.metadata["hier_threshold"] = "very"
    assert model.hier_threshold == 0.5


@pytest.mark.parametrize("text", [CFG, CFG.replace("batch_normalize=1", "batch_normalize=0")])
def test_load_cfg_and_weights_as_darknet_would(tmp_path: Path, text: str) -> None:
    tree = tmp_path / "toy.tree"
    tree.write_text("n0 -1\nn1 -1\nn2 0\nn3 0\nn4 3\n")
    cfg = tmp_path / "toy.cfg"
    cfg.write_text(text + "tree=toy.tree\n")
    save_weights(bright_finder(text), tmp_path / "toy.weights")
    model = YOLO9000.load(cfg=cfg, weights=tmp_path / "toy.weights", device="cpu")
    assert (model.letterbox, model.network.batchnorm) == ("darknet", "darknet")
    assert len(model.detect(spot(64, 96, 32, 64, 32))) == 1
    assert YOLO9000(bright_finder()).letterbox == "torch"


def test_darknet_weights_survive_the_model_file(tmp_path: Path) -> None:
    """weights -> model file -> weights gives the same bytes, header included."""
    net = bright_finder()
    net.seen, net.weights_version = 77, (0, 1, 0)
    save_weights(net, tmp_path / "a.weights")
    save_model(net, tmp_path / "m.safetensors")
    save_weights(load_model(tmp_path / "m.safetensors")[0], tmp_path / "b.weights")
    assert (tmp_path / "a.weights").read_bytes() == (tmp_path / "b.weights").read_bytes()


@pytest.mark.parametrize("suffix", ["safetensors", "onnx", "pt2", "torchscript"])
def test_names_that_are_no_text(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9." + suffix.encode())
    file.touch()
    with pytest.raises(WeightsError, match="its name is no UTF-8 text"):
        YOLO9000.load(file)


def test_load_refuses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"weights together with their cfg; found weights=a\.weights"):
        YOLO9000.load(weights="a.weights")
    with pytest.raises(ConfigError, match="found model=m, weights=w, cfg=c"):
        YOLO9000.load("m", weights="w", cfg="c")
    with pytest.raises(WeightsError, match="give both, as weights and cfg"):
        YOLO9000.load("yolov2.weights")
    with pytest.raises(WeightsError, match="neither a model file nor a known name"):
        YOLO9000.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "wrong", [{"precision": "fp8"}, {"precision": "int8", "compile": True}, {"device": "toaster"}], ids=str
)
def test_load_refuses_before_it_reads_or_downloads(wrong: dict[str, Any]) -> None:
    for source in ("yolov2", "none.safetensors", "none.onnx"):
        with pytest.raises(ConfigError, match=r"precision|device"):
            YOLO9000.load(source, offline=True, **wrong)


def test_classifier_is_refused() -> None:
    cfg = TRUNK + linear(5) + CLASSIFIED
    with pytest.raises(ConfigError, match=r"no \[region\] section: it is a classifier"):
        YOLO9000(Network(Cfg.parse(cfg), PETS))


def test_device() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="device 'cuda:99' cannot be used"):
        pick_device("cuda:99")
    for none in ("toaster", "meta"):
        with pytest.raises(ConfigError, match=f"device '{none}' cannot be used: expected cpu, cuda"):
            pick_device(none)
    with pytest.raises(ConfigError, match=r"device '1\.5' cannot be used"):
        pick_device(1.5)  # type: ignore[arg-type]
