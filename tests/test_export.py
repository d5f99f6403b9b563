"""Exported files: the same detections as the network they came from, in onnxruntime and torch."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from toys import PETS, POOL, conv, input_size, linear, region
from wordtree.tree import WordTree
from yolo9000 import YOLO9000, Detections
from yolo9000.darknet.cfg import Cfg
from yolo9000.decode import Decoder, Kept
from yolo9000.engine import Engine
from yolo9000.errors import ConfigError, WeightsError
from yolo9000.export.graph import GatedGraph
from yolo9000.export.program import KeptWarning, program_tree
from yolo9000.export.write import ExportOptions, export
from yolo9000.model import load_any
from yolo9000.network import Network
from yolo9000.quantized import Precision
from yolo9000.sources import demo_photos

# Two priors with class rows of their own, a passthrough as in YOLOv2, an input that is not square.
TRUNK = input_size(96, 64) + (conv(8, stride=2) + POOL) * 2
PASSTHROUGH = "[route]\nlayers=-2\n[reorg]\nstride=2\n[route]\nlayers=-1,-3\n"
CFG = TRUNK + PASSTHROUGH + linear(20) + region(5, "1,1,2,3", softmax=1)
pytestmark = pytest.mark.timeout(900)  # the exporter is slow where other work runs beside it
FORMATS = ("onnx", "pt2", "torchscript")


def random_detector(cfg: str = CFG, tree: WordTree | None = PETS, *, seed: int = 0) -> YOLO9000:
    """Random weights whose objectness and classes differ from cell to cell."""
    torch.manual_seed(seed)
    network = Network(Cfg.parse(cfg), tree)
    assert network.head is not None
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.normal_(std=1.0)
        network.head.box_weight[:, 2:4] *= 0.1  # boxes of sensible sizes
    return YOLO9000(network, metadata={"threshold": "0.3", "license": "none"}, device="cpu")


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((64, 96), (50, 31), (120, 200))]


def assert_same(found: Detections, expected: Detections) -> None:
    """The same detections; orders may differ where scores are equal to rounding."""
    assert len(found) == len(expected)
    if not len(found):
        return
    same = found.nodes[:, None] == expected.nodes
    same &= (np.abs(found.boxes[:, None] - expected.boxes) < 0.02).all(axis=2)
    for name in ("scores", "objectness"):
        same &= np.abs(getattr(found, name)[:, None] - getattr(expected, name)) < 1e-5
    assert same.any(axis=0).all()
    assert same.any(axis=1).all()
    twin = same.argmax(axis=1)
    np.testing.assert_array_equal(found.paths, expected.paths[twin])
    np.testing.assert_allclose(found.path_probs, expected.path_probs[twin], atol=1e-5)


def compare(exported: YOLO9000, eager: YOLO9000, sizes: tuple[int | tuple[int, int] | None, ...]) -> int:
    """Detections in all pictures at all sizes and thresholds; how many were compared.

    Cells in the grey around a picture can be equal to the bit, and which of two equal boxes suppresses the
    other is chance: suppression is compared in pictures without grey.
    """
    count = 0
    rng = np.random.default_rng(2)
    for size in sizes:
        full = rng.integers(0, 256, (*eager.input_size(size), 3), np.uint8)
        for threshold in (0.0, 0.2, 0.5, 0.9):
            options = {"size": size, "threshold": threshold}
            pairs = [tuple(model.detect(full, **options) for model in (exported, eager))]
            many = [model.detect(pictures(), nms=1.0, batch=2, **options) for model in (exported, eager)]
            for found, expected in [*pairs, *zip(*many, strict=True)]:
                assert_same(found, expected)
                count += len(found)
    return count


@pytest.fixture(scope="module")
def eager() -> YOLO9000:
    return random_detector()


@pytest.fixture(scope="module")
def onnx_file(eager: YOLO9000, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(eager, tmp_path_factory.mktemp("gated") / "model.onnx")


@pytest.fixture(scope="module")
def dynamic_file(eager: YOLO9000, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(eager, tmp_path_factory.mktemp("dynamic") / "model.onnx", ExportOptions(dynamic=True))


def test_onnx_gives_the_same_detections(eager: YOLO9000, onnx_file: Path) -> None:
    assert compare(YOLO9000.load(onnx_file, device="cpu"), eager, (None, (64, 96))) > 50


SIZES = (None, 32, 160, (96, 64), (48, 80))  # at 32 there are fewer anchors than 300


def test_dynamic_onnx_takes_any_size_and_batch(eager: YOLO9000, dynamic_file: Path) -> None:
    assert compare(YOLO9000.load(dynamic_file, device="cpu"), eager, (*SIZES, 16)) > 100


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("back", ["[upsample]\n", conv(32) + "[reorg]\nstride=2\nreverse=1\n"])
def test_dynamic_files_keep_to_sizes_that_the_coarsest_map_divides(
    back: str, suffix: str, tmp_path: Path
) -> None:
    cfg = TRUNK + POOL + conv(8) + back + conv(8) + "[route]\nlayers=-1,3\n" + linear(10)
    eager = random_detector(cfg + region(5, "1,1", softmax=1), PETS)
    coarsest = eager.network.stride * 2
    assert eager.network.multiple == coarsest
    exported = YOLO9000.load(
        export(eager, tmp_path / f"m.{suffix}", ExportOptions(dynamic=True)), device="cpu"
    )
    assert compare(exported, eager, (None, coarsest * 2, (coarsest * 2, coarsest * 5))) > 20
    for model in (eager, exported):
        with pytest.raises(
            ConfigError, match=f"size must be a multiple of {coarsest} .* found {coarsest + 8}"
        ):
            model.detect(pictures()[0], size=coarsest + 8)


def test_dynamic_programs_take_any_size_of_two_cells_and_batch(eager: YOLO9000, tmp_path: Path) -> None:
    exported = YOLO9000.load(export(eager, tmp_path / "m.pt2", ExportOptions(dynamic=True)), device="cpu")
    assert compare(exported, eager, SIZES) > 100
    with pytest.raises(ConfigError, match=r"m\.pt2: does not take 16 x 64 pixels\. .* give a larger size"):
        exported.detect(pictures()[0], size=(16, 64))


DEEP = WordTree([node - 1 for node in range(40)], [f"c{node}" for node in range(40)])
WIDE = WordTree([-1] + [0] * 500, [f"w{node}" for node in range(501)])
CONVS = input_size(64) + "".join(
    conv(8, 3, kind, norm, stride=2) for kind, norm in (("relu", 1), ("logistic", 0), ("linear", 1))
)
UNEVEN = input_size(101, 67) + POOL * 3 + linear(10) + region(5, "1,1", softmax=1)
# The map in the middle has cells of twice the pixels of those at the end.
GROWN = TRUNK + POOL + conv(8) + "[upsample]\n" + conv(6) + "[shortcut]\nfrom=-5\nactivation=leaky\nbeta=.5\n"
POOLED = input_size(52) + conv(4, stride=2) + POOL + "[maxpool]\nsize=2\nstride=1\n" + conv(4, groups=2)


@pytest.mark.parametrize(
    ("cfg", "tree"),
    [
        (TRUNK + linear(15) + region(5, "1,1,2,3", softmax=1, tied=1), PETS),
        (TRUNK + linear(10) + region(5, "1,1", softmax=0), PETS),
        (TRUNK + linear(18) + region(4, "1,1,2,3", softmax=0), None),
        (TRUNK + linear(14) + region(4, "1,1,2,3", softmax=1, tied=1), None),
        (TRUNK + linear(12) + region(1, "1,1,2,3", softmax=0), None),
        (TRUNK + linear(11) + region(1, "1,1,2,3", softmax=1, tied=1), WordTree([-1], ["only"])),
        (TRUNK + linear(45) + region(40, "1,1", softmax=1), DEEP),
        (TRUNK + linear(506) + region(501, "1,1", softmax=1), WIDE),
        (CONVS + linear(10) + region(5, "1,1", softmax=1), PETS),
        (POOLED + linear(10) + region(5, "1,1", softmax=1), PETS),
        (TRUNK + "[reorg]\nstride=2\nreverse=1\n" + linear(10) + region(5, "1,1", softmax=1), PETS),
        (GROWN + linear(10) + region(5, "1,1", softmax=1), PETS),
        (TRUNK + conv(8, pad=0) + linear(10) + region(5, "1,1", softmax=1), PETS),
        (TRUNK + conv(8, pad=0, padding=3) + linear(10) + region(5, "1,1", softmax=1), PETS),
        (UNEVEN, PETS),
    ],
    ids=(
        "tied sigmoid-tree sigmoids flat-tied one-class one-node deep wide activations pools reorg upsample "
        "smaller-grid larger-grid uneven-size"
    ).split(),
)
@pytest.mark.parametrize("dense", [False, True])
def test_networks_of_every_kind(cfg: str, tree: WordTree | None, dense: bool, tmp_path: Path) -> None:
    eager = random_detector(cfg, tree)
    path = export(eager, tmp_path / "model.torchscript", ExportOptions(dense, None if dense else 2000))
    assert compare(YOLO9000.load(path, device="cpu"), eager, (None,)) > 20


@pytest.mark.parametrize("suffix", ["onnx", "torchscript"])
def test_dense_files_give_the_same_detections(eager: YOLO9000, suffix: str, tmp_path: Path) -> None:
    path = export(eager, tmp_path / f"dense.{suffix}", ExportOptions(dense=True, size=64))
    exported = YOLO9000.load(path, device="cpu")
    assert exported.input_size(None) == (64, 64)
    assert compare(exported, eager, (64,)) > 20


@pytest.mark.parametrize("suffix", ["pt2", "torchscript"])
def test_torch_programs_give_the_same_detections(eager: YOLO9000, suffix: str, tmp_path: Path) -> None:
    exported = YOLO9000.load(export(eager, tmp_path / f"model.{suffix}"), device="cpu")
    assert compare(exported, eager, (None,)) > 20
    assert exported.tree == eager.tree
    assert exported.metadata["license"] == "none"


@pytest.mark.slow
def test_nano_cfg_with_tied_rows_and_the_whole_tree(tmp_path: Path) -> None:
    text = Cfg.load("yolo9000-nano").text.replace("width=384", "width=64").replace("height=384", "height=64")
    eager = random_detector(text, WordTree.load("yolo9000"))
    path = export(eager, tmp_path / "nano.onnx")
    exported = YOLO9000.load(path, device="cpu")
    assert compare(exported, eager, (None,)) > 20
    assert program_tree(path) == eager.tree
    assert exported.threshold == 0.3


@pytest.mark.parametrize("softmax", [1, 0])
def test_class_lists_give_several_classes_an_anchor(softmax: int, tmp_path: Path) -> None:
    eager = random_detector(CFG.replace("softmax=1", f"softmax={softmax}"), None)
    assert GatedGraph(eager.engine.network, 6).outputs == ("boxes", "objectness", "logits")
    exported = YOLO9000.load(export(eager, tmp_path / "list.torchscript"), device="cpu")
    assert exported.metadata["classes"] == ("softmax" if softmax else "sigmoid")
    assert compare(exported, eager, (None,)) > 20


def test_darknet_weights_keep_their_letterbox(tmp_path: Path) -> None:
    network = random_detector().network
    network.batchnorm = "darknet"
    eager = YOLO9000(network, device="cpu")
    exported = YOLO9000.load(export(eager, tmp_path / "darknet.torchscript"), device="cpu")
    assert exported.letterbox == "darknet"
    assert compare(exported, eager, (None,)) > 20


def test_too_few_anchors_warn_and_give_the_best_of_each_prior(eager: YOLO9000, tmp_path: Path) -> None:
    path = export(eager, tmp_path / "few.torchscript", ExportOptions(top=3))  # 2 of each prior
    exported = YOLO9000.load(path, device="cpu")
    picture = pictures()[0]
    with pytest.warns(KeptWarning, match="--top 8"):
        exported.detect(picture, threshold=0.0)
    images = torch.rand(2, 3, 64, 96)
    kept = exported.engine.features(images)
    with torch.inference_mode():
        raw = eager.network.head.boxes(eager.engine.features(images))
    objectness = raw[:, :, 4].sigmoid().flatten(2)
    assert torch.allclose(kept["objectness"], objectness.topk(2).values.flatten(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exported.detect(picture, threshold=0.999)


def test_outputs_are_what_the_documentation_says(onnx_file: Path, dynamic_file: Path) -> None:
    session = onnxruntime.InferenceSession(str(onnx_file))
    shapes = {value.name: value.shape for value in session.get_inputs() + session.get_outputs()}
    anchors, depth = 48, 3  # 2 priors on 4 x 6 cells, all kept
    assert shapes == {
        "images": [1, 3, 64, 96],
        "boxes": [1, anchors, 4],
        "objectness": [1, anchors],
        "logits": [1, anchors, len(PETS)],
        "paths": [1, anchors, depth],
        "path_probs": [1, anchors, depth],
    }
    session = onnxruntime.InferenceSession(str(dynamic_file))
    images = np.zeros((3, 3, 32, 32), np.float32)
    boxes, objectness, *_ = session.run(None, {"images": images})
    assert boxes.shape == (3, 300, 4)
    assert (objectness > 0).sum() == 3 * 8  # 2 x 2 cells, two priors; the rest stands for no anchor
    assert np.isfinite(boxes).all()


def test_a_stranger_can_run_the_file_with_its_metadata_alone(eager: YOLO9000, onnx_file: Path) -> None:
    """What docs/export.md tells: no class of ours from file to label."""
    about = {entry.key: entry.value for entry in onnx.load(onnx_file).metadata_props}
    assert json.loads(json.dumps(about)) == about
    names = about["names"].split("\n")
    parents = [int(line.split()[1]) for line in about["tree"].split("\n")]
    assert (names, parents) == (list(PETS.names), list(PETS.parent))
    assert about["anchors"] == "1,1 2,3"
    assert (about["height"], about["width"], about["stride"]) == ("64", "96", "16")
    assert (about["letterbox"], about["classes"], about["threshold"]) == ("torch", "tree", "0.3")
    picture = pictures()[0]  # of the input's own size
    images = picture.transpose(2, 0, 1)[None].astype(np.float32) / 255
    session = onnxruntime.InferenceSession(str(onnx_file))
    boxes, objectness, logits, paths, steps = session.run(None, {"images": images})
    best = objectness[0].argmax()
    expected = max(eager.detect(picture, threshold=0.0, nms=1.0, leaves=True), key=lambda d: d.objectness)
    leaf = paths[0, best][paths[0, best] >= 0][-1]
    assert names[leaf] == expected.label
    assert objectness[0, best] * steps[0, best].prod() == pytest.approx(expected.score, abs=1e-5)
    x, y, w, h = boxes[0, best] * (96, 64, 96, 64)
    corners = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, (96, 64, 96, 64))
    np.testing.assert_allclose(corners, expected.box, atol=1e-2)
    top_group = np.exp(logits[0, best, :2])
    assert steps[0, best, 0] == pytest.approx(top_group.max() / top_group.sum(), abs=1e-5)


def test_given_classes_need_the_logits_only(eager: YOLO9000) -> None:
    """A map of classes, as for ImageNet DET: `classes` of the decoder, from kept anchors as from features."""
    graph = GatedGraph(eager.engine.network, 24)
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        kept = Kept(*graph(images)[:3])
    decoder = Decoder(eager.engine.network.head)
    found = decoder.decode_kept(kept, 0.05, classes=[1, 2, 4])
    expected = decoder.decode(eager.engine.features(images), 0.05, classes=[1, 2, 4])
    for a, b in zip(found, expected, strict=True):
        assert len(a) == len(b) > 0
        assert torch.allclose(a.scores.sort().values, b.scores.sort().values, atol=1e-6)


@pytest.mark.parametrize(
    ("suffix", "dense"), [("onnx", False), ("torchscript", False), ("torchscript", True)]
)
@pytest.mark.parametrize("place", ["layers.0.conv.weight", "head.class_bias"])
def test_numbers_that_are_none(
    suffix: str, dense: bool, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_detector()
    assert isinstance(model.engine, Engine)
    model.engine.network.state_dict()[place].fill_(torch.nan)
    monkeypatch.setattr(Network, "check_values", lambda network: None)
    file = export(model, tmp_path / f"m.{suffix}", ExportOptions(dense=dense))
    with pytest.raises(WeightsError, match="NaN or infinity"):
        YOLO9000.load(file).detect(pictures()[0], threshold=0.1)


def test_damaged_class_rows_are_not_exported(tmp_path: Path) -> None:
    model = random_detector()
    model.network.state_dict()["head.class_weight"][0, 1] = torch.nan
    with pytest.raises(WeightsError, match=r"NaN.*in head\.class_weight"):
        export(model, tmp_path / "m.onnx")


@pytest.mark.parametrize("precision", ["int8", "bf16", "fp16"])
def test_rounded_models_are_not_exported(precision: Precision, eager: YOLO9000, tmp_path: Path) -> None:
    rounded = YOLO9000(eager.network, device="cpu", precision=precision)
    with pytest.raises(ConfigError, match=f"in {precision} cannot be exported: load it with .*fp32"):
        export(rounded, tmp_path / "m.pt2")


@pytest.mark.parametrize("target", ["folder.onnx", "file/m.pt2"])
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    eager: YOLO9000, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.delattr("yolo9000.export.write.describe_export")  # where the work begins
    with pytest.raises(OSError, match=r"is a fold|is a file"):
        export(eager, tmp_path / target)


def test_settings_that_cannot_be(eager: YOLO9000, onnx_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.bin: expected a file name that ends in \.onnx"):
        export(eager, tmp_path / "model.bin")
    with pytest.raises(ConfigError, match="recorded at one size"):
        export(eager, tmp_path / "m.torchscript", ExportOptions(dynamic=True))
    with pytest.raises(ConfigError, match=r"multiple of 8 from 8 to .* found 67"):
        export(random_detector(UNEVEN, PETS), tmp_path / "m.onnx", ExportOptions(dynamic=True))
    with pytest.raises(ConfigError, match="top must be at least 1"):
        export(eager, tmp_path / "m.onnx", ExportOptions(top=0))
    with pytest.raises(ConfigError, match="leave out top, or dense"):
        export(eager, tmp_path / "m.onnx", ExportOptions(top=300, dense=True))
    with pytest.raises(ConfigError, match="nearest is 96"):
        export(eager, tmp_path / "m.onnx", ExportOptions(size=100))
    exported = YOLO9000.load(onnx_file, device="cpu")
    with pytest.raises(ConfigError, match=r"exported for an input of 64 x 96 pixels, not 320 x 320"):
        exported.detect(pictures()[0], size=320)
    with pytest.raises(ConfigError, match="an exported model only detects"):
        _ = exported.network
    with pytest.raises(ConfigError, match="precision and compile are fixed"):
        YOLO9000.load(onnx_file, device="cpu", precision="bf16")
    with pytest.raises(WeightsError, match="an exported model only detects"):
        load_any(onnx_file)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_of_another_kind(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{suffix}"
    with pytest.raises(WeightsError, match="no such exported model"):
        YOLO9000.load(path, device="cpu")
    for junk in (b"", b"\x89PNG\r\n" * 50):
        path.write_bytes(junk)
        with pytest.raises(WeightsError, match=r"expected an exported model|found 'no such entry'"):
            YOLO9000.load(path, device="cpu")


def test_damaged_metadata(onnx_file: Path, tmp_path: Path) -> None:
    whole = onnx.load(onnx_file)
    for key, value, problem in (
        ("format", "yolo9000-export-9", "found 'yolo9000-export-9'"),
        ("tree", "n0 7", "damaged metadata"),
        ("height", "high", "damaged metadata"),
        ("letterbox", "square", "neither 'torch' nor 'darknet'"),
        ("names", None, "metadata lack names"),
    ):
        proto = onnx.ModelProto()
        proto.CopyFrom(whole)
        entries = {entry.key: entry.value for entry in proto.metadata_props} | {key: value}
        del proto.metadata_props[:]
        for name, text in entries.items():
            if text is not None:
                proto.metadata_props.add(key=name, value=text)
        path = tmp_path / "model.onnx"
        onnx.save(proto, path)
        with pytest.raises(WeightsError, match=problem):
            YOLO9000.load(path, device="cpu")
    data = onnx_file.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match=r"cut off"):
        YOLO9000.load(path, device="cpu")


def test_damage_that_shows_when_it_runs(onnx_file: Path, tmp_path: Path) -> None:
    proto = onnx.load(str(onnx_file))
    rows = {node.input[1] for node in proto.graph.node if node.op_type == "Gather"}
    for tensor in proto.graph.initializer:
        if tensor.name in rows:
            far = np.full_like(onnx.numpy_helper.to_array(tensor), 1_000_000)
            tensor.CopyFrom(onnx.numpy_helper.from_array(far, tensor.name))
    path = tmp_path / "damaged.onnx"
    onnx.save(proto, str(path))
    model = YOLO9000.load(path)
    with pytest.raises(WeightsError, match=r"damaged\.onnx: onnxruntime cannot run it: .* export the model"):
        model.detect(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_weights_that_are_damaged(eager: YOLO9000, tmp_path: Path, kind: str) -> None:
    """Torch takes them as they are."""
    path = tmp_path / f"model.{kind}"
    export(eager, path)
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(("data/0", "weight_0")))
        content = archive.read(name)
    path.write_bytes(path.read_bytes().replace(content, bytes(len(content))))
    with pytest.raises(WeightsError, match=rf"model\.{kind}: .* the checksum of .* is wrong"):
        YOLO9000.load(path, device="cpu")


def test_command_line(eager: YOLO9000, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from yolo9000.cli import app

    eager.save(tmp_path / "model.safetensors")
    target = tmp_path / "sub" / "model.torchscript"
    runner = CliRunner()
    result = runner.invoke(app, ["export", str(tmp_path / "model.safetensors"), "-o", str(target)])
    assert result.exit_code == 0, result.output
    photo = demo_photos()[0]
    lines = []
    for model in (tmp_path / "model.safetensors", target):
        result = runner.invoke(app, ["detect", photo, "--json", "--model", str(model), "--device", "cpu"])
        assert result.exit_code == 0, result.output
        lines.append(json.loads(result.output))
    assert len(lines[0]["detections"]) == len(lines[1]["detections"])
