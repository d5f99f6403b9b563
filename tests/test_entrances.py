"""A damaged cfg or weights file is the same error, word for word, whichever way it comes in."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wordtree.tree import WordTree
from yolo9000 import cli
from yolo9000.checkpoint import load_model, save_model
from yolo9000.convert import convert
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.weights import load_weights, save_weights
from yolo9000.errors import CfgError, FormatError, WeightsError, YOLO9000Error
from yolo9000.model import YOLO9000
from yolo9000.network import Network

CFG = """[net]
width=64
height=64
channels=3

[convolutional]
batch_normalize=1
filters=4
size=3
pad=1
activation=leaky

[maxpool]
size=2
stride=2

[convolutional]
filters=14
activation=linear

[region]
anchors=1,2, 3,4
num=2
classes=2
"""


def api(cfg: str, weights: str) -> object:
    return YOLO9000.load(cfg=cfg, weights=weights, device="cpu")


def pieces(cfg: str, weights: str) -> object:
    return load_weights(Network(Cfg.load(cfg)), weights)


def conversion(cfg: str, weights: str) -> object:
    return convert(Path(weights), Path("new.safetensors"), cfg=cfg)


def command(*arguments: str) -> Callable[[str, str], object]:
    """The command line, whose red line and exit code become the error that they came from."""

    def call(cfg: str, weights: str) -> object:
        with pytest.MonkeyPatch.context() as patch:
            words = [{"CFG": cfg, "WEIGHTS": weights}.get(word, word) for word in arguments]
            patch.setattr(sys, "argv", ["yolo9000", *words])
            patch.setenv("YOLO9000_DEBUG", "1")
            with pytest.raises((YOLO9000Error, SystemExit)) as caught:
                cli.main()
            raise caught.value

    return call


ENTRANCES: dict[str, Callable[[str, str], object]] = {
    "YOLO9000.load": api,
    "Network, load_weights": pieces,
    "convert": conversion,
    "yolo9000 detect": command("detect", "spot.png", "--cfg", "CFG", "--weights", "WEIGHTS"),
    "yolo9000 convert": command("convert", "WEIGHTS", "new.safetensors", "--cfg", "CFG"),
    "yolo9000 evaluate": command("evaluate", "voc:none", "--cfg", "CFG", "--weights", "WEIGHTS"),
    "yolo9000 train": command(
        "train", "-d", "voc:none", "--model", "CFG", "--weights", "WEIGHTS", "--out", "run"
    ),
    "yolo9000 train-joint": command(
        "train-joint", "-d", "voc:none", "--model", "CFG", "--weights", "WEIGHTS", "--out", "run"
    ),
}

COLOURLESS = ("Network, load_weights", "convert", "yolo9000 convert")  # no picture comes in there

Damage = Callable[[bytes, bytes], tuple[bytes, bytes]]
DAMAGES: dict[str, tuple[type[YOLO9000Error], str, Damage]] = {
    "no number": (
        CfgError,
        "bad.cfg:8: [convolutional] filters: expected a whole number, got 'four'.",
        lambda c, w: (c.replace(b"filters=4", b"filters=four"), w),
    ),
    "unknown layer": (
        CfgError,
        "bad.cfg:13: [maxpoool]: unsupported layer.",
        lambda c, w: (c.replace(b"[maxpool]", b"[maxpoool]"), w),
    ),
    "cut cfg": (
        CfgError,
        "bad.cfg:21: [region] anchors: is missing.",
        lambda c, w: (c[: c.index(b"anchors")], w),
    ),
    "no text": (CfgError, "bad.cfg:1: byte 2 is not UTF-8 text.", lambda c, w: (w[:2] + b"\xff" + w[2:], w)),
    "empty cfg": (CfgError, "bad.cfg: holds no section", lambda c, w: (b"", w)),
    "filters that do not fit": (
        CfgError,
        "bad.cfg:21: [region]: needs 14 channels",
        lambda c, w: (c.replace(b"filters=14", b"filters=15"), w),
    ),
    "too much": (
        CfgError,
        "the limit is 300,000,000.",
        lambda c, w: (c.replace(b"filters=4", b"filters=99999999"), w),
    ),
    "weights of nothing": (
        WeightsError,
        "bad.weights: 0 bytes, but a .weights header",
        lambda c, w: (c, b""),
    ),
    "cut weights": (
        WeightsError,
        "it ends in layer 2 [convolutional] (line 17), after 69 of its 70 values",
        lambda c, w: (c, w[:-4]),
    ),
    "cut within a value": (WeightsError, "(3 bytes too many)", lambda c, w: (c, w[:-1])),
    "left over": (WeightsError, "2 are left over after layer 2", lambda c, w: (c, w + bytes(8))),
    "a picture": (
        WeightsError,
        "expected a .weights file of darknet, got a PNG picture",
        lambda c, w: (c, b"\x89PNG\r\n\x1a\n" + w),
    ),
    "transposed": (
        WeightsError,
        "hold transposed kernels",
        lambda c, w: (c, struct.pack("<i", 1000) + w[4:]),
    ),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("spot.png")
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_same_error_at_every_entrance(home: Path, entrance: str, damage: str) -> None:
    kind, message, change = DAMAGES[damage]
    save_weights(Network(Cfg.parse(CFG)), home / "good.weights")
    cfg, weights = change(CFG.encode(), (home / "good.weights").read_bytes())
    (home / "bad.cfg").write_bytes(cfg)
    (home / "bad.weights").write_bytes(weights)
    with pytest.raises(YOLO9000Error) as expected:
        pieces("bad.cfg", "bad.weights")
    assert message in str(expected.value)
    with pytest.raises(YOLO9000Error) as caught:
        ENTRANCES[entrance]("bad.cfg", "bad.weights")
    assert (type(caught.value), str(caught.value)) == (kind, str(expected.value))
    assert not (home / "new.safetensors").exists()


@pytest.mark.parametrize("entrance", [name for name in ENTRANCES if name not in COLOURLESS])
def test_pictures_have_three_channels(home: Path, entrance: str) -> None:
    """A network for others can be built and converted, but not shown a picture."""
    (home / "grey.cfg").write_text(CFG.replace("channels=3", "channels=1"))
    save_weights(Network(Cfg.load("grey.cfg")), "grey.weights")
    with pytest.raises(CfgError, match=r"grey\.cfg:4: \[net\] channels: pictures have 3 .*got 1"):
        ENTRANCES[entrance]("grey.cfg", "grey.weights")


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("missing", ["bad.cfg", "bad.weights"])
def test_missing_files(home: Path, entrance: str, missing: str) -> None:
    save_weights(Network(Cfg.parse(CFG)), home / "bad.weights")
    (home / "bad.cfg").write_text(CFG)
    (home / missing).unlink()
    with pytest.raises(YOLO9000Error) as caught:
        ENTRANCES[entrance]("bad.cfg", "bad.weights")
    assert type(caught.value) is (CfgError if missing == "bad.cfg" else WeightsError)
    assert str(caught.value).startswith(f"{missing}: cannot be read (No such file or directory)")


# --------------------------------------------------------------------------------------- there and back


TREE = WordTree([-1, -1, 0, 0], ["a", "b", "c", "d"], ["animal", "car", "cat", "dog"])


@pytest.mark.parametrize("version", [(0, 1, 0), (0, 2, 5)])  # 32 and 64 bits of images seen
@pytest.mark.parametrize("tree", [None, TREE])
@pytest.mark.filterwarnings("ignore:.*converted as it is")
def test_weights_to_model_to_weights(
    home: Path, version: tuple[int, int, int], tree: WordTree | None
) -> None:
    """Every byte, those of NaNs too; and the cfg, whose tree is the one written beside it."""
    text = CFG
    if tree is not None:
        tree.save(home / "own.tree")
        text = CFG.replace("filters=14", "filters=18").replace("classes=2", "classes=4\ntree=own.tree")
    (home / "first.cfg").write_text(text)
    network = Network(Cfg.load(home / "first.cfg"))
    count = (save_weights(network, home / "x.weights"), (home / "x.weights").stat().st_size - 20)[1]
    seen = struct.pack("<I" if version < (0, 2, 0) else "<Q", 4_000_000_000)
    values = np.random.default_rng(0).bytes(count)
    (home / "first.weights").write_bytes(struct.pack("<3i", *version) + seen + values)

    told = r"first\.{}: converted as it is, but the network's weights hold NaN, infinity .*"
    with pytest.warns(UserWarning, match=told.format("weights")):
        convert(home / "first.weights", home / "first.safetensors", cfg="first.cfg")
    with pytest.warns(UserWarning, match=told.format("safetensors")):
        files = convert(home / "first.safetensors", home / "second.weights")
    assert (home / "second.weights").read_bytes() == (home / "first.weights").read_bytes()
    again = Cfg.load(home / "second.cfg")
    assert [section.options for section in again.layers[:-1]] == [
        section.options for section in Cfg.load(home / "first.cfg").layers[:-1]
    ]
    if tree is None:
        assert files == [home / f"second.{ending}" for ending in ("weights", "cfg", "names")]
        assert again.text == text
    else:
        assert again.region is not None
        assert again.region.tree == "second.tree"
        assert Network(again).tree == tree

    convert(home / "second.weights", home / "second.safetensors", cfg=str(home / "second.cfg"))
    first, second = (load_model(home / f"{name}.safetensors")[0] for name in ("first", "second"))
    assert (first.tree, first.seen, first.weights_version) == (
        second.tree,
        second.seen,
        second.weights_version,
    )
    assert first.batchnorm == second.batchnorm == "darknet"


@pytest.mark.filterwarnings("ignore:many.cfg. does not name")
def test_names_of_a_plain_class_list(home: Path) -> None:
    """They stand beside the cfg; a known list keeps its ids; those of another cfg are refused."""
    (home / "own.cfg").write_text(CFG)
    (home / "own.names").write_text("fire truck\nbear\n")
    save_weights(Network(Cfg.load("own.cfg")), home / "own.weights")
    convert(home / "own.weights", home / "own.safetensors", cfg="own.cfg")
    convert(home / "own.safetensors", home / "again.weights")
    assert YOLO9000.load(cfg="again.cfg", weights="again.weights").tree.names == ("fire truck", "bear")
    (home / "again.names").write_text("bear\n")
    with pytest.raises(FormatError, match=r"again\.names: expected 2 names, .* again\.cfg, got 1\. Use"):
        Network(Cfg.load("again.cfg"))
    many = CFG[: CFG.index("[region]")].replace("filters=14", "filters=1000") + "[avgpool]\n[softmax]\n"
    (home / "many.cfg").write_text(many)
    tree = Network(Cfg.load("many.cfg")).tree
    (home / "many.names").write_text("".join(f"{name}\n" for name in tree.names))
    assert Network(Cfg.load("many.cfg")).tree.wnids == tree.wnids
    assert tree.wnids != tree.names


@pytest.mark.parametrize("tail", ["[softmax]\n[cost]\n", "[dropout]\n"])
def test_a_classifiers_tree_stays_with_its_weights(home: Path, tail: str) -> None:
    """It is the [softmax] that names it, last layer or not, and if there was none."""
    text = CFG[: CFG.index("[region]")].replace("filters=14", "filters=4") + "[avgpool]\n" + tail
    network = Network(Cfg.parse(text), TREE)
    save_model(network, home / "first.safetensors")
    convert(home / "first.safetensors", home / "first.weights")
    assert Network(Cfg.load("first.cfg")).tree == TREE
    convert(home / "first.weights", home / "second.safetensors", cfg="first.cfg")
    assert load_model(home / "second.safetensors")[0].tree == TREE


def test_what_is_rare_in_darknets_files_survives(home: Path) -> None:
    """A tree of top nodes alone, line separators in a comment, and the largest number of images seen."""
    flat = WordTree([-1, -1], ["a", "b"], ["apple", "bear"])
    flat.save(home / "flat.tree")
    (home / "first.cfg").write_text("# one \x0c two \u2028 three \x85\n" + CFG + "tree=flat.tree\n")
    network = Network(Cfg.load(home / "first.cfg"))
    network.seen = 2**64 - 1
    save_weights(network, home / "first.weights")
    convert(home / "first.weights", home / "first.safetensors", cfg="first.cfg")
    (home / "flat.tree").unlink()
    convert(home / "first.safetensors", home / "second.weights")
    assert (home / "second.weights").read_bytes() == (home / "first.weights").read_bytes()
    again = Network(Cfg.load(home / "second.cfg"))
    assert again.tree == flat
    assert again.region is not None
    assert network.region is not None
    assert again.region.anchors == network.region.anchors


def test_trained_model_to_weights_to_model(home: Path) -> None:
    """Trained here, batch norm changes its formula once: variances alone, from then on nothing."""
    network = Network(Cfg.parse(CFG))
    network.seen = 12
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(1e-7, 4)
    save_model(network, home / "first.safetensors")
    convert(home / "first.safetensors", home / "first.weights")
    convert(home / "first.weights", home / "second.safetensors", cfg="first.cfg")
    convert(home / "second.safetensors", home / "second.weights")
    assert (home / "first.weights").read_bytes() == (home / "second.weights").read_bytes()
    first, second = (load_model(home / f"{name}.safetensors")[0] for name in ("first", "second"))
    assert (first.batchnorm, second.batchnorm) == ("torch", "darknet")
    assert (first.seen, second.seen) == (12, 12)
    state = second.state_dict()
    changed = {name for name, tensor in first.state_dict().items() if not (tensor == state[name]).all()}
    assert changed == {"layers.0.bn.running_var"}


@pytest.mark.parametrize("name", ["yolov2-voc", "yolo9000"])
def test_first_23_layers_of_darknet19_initialise_a_detector(home: Path, name: str) -> None:
    """`darknet19_448.conv.23`, the start of every published YOLOv2 training."""
    classifier, detector = Network(Cfg.load("darknet19")), Network(Cfg.load(name))
    save_weights(classifier, home / "darknet19_448.conv.23", layers=23)
    before = {key: tensor.clone() for key, tensor in detector.state_dict().items()}
    loaded = load_weights(detector, home / "darknet19_448.conv.23", partial=True)
    assert (loaded.layers, loaded.convolutions) == (23, 18)
    published = classifier.state_dict()
    for key, tensor in detector.state_dict().items():
        within = key.startswith("layers.") and int(key.split(".")[1]) < 23
        assert tensor.equal(published[key] if within else before[key]), key
