"""Damaged files: errors of ours, quickly, and without taking memory first.

Hypothesis writes the damage, the same on every run. Whatever a reader is given, it returns a result or raises
a `YOLO9000Error`; anything else fails the test that shows the bytes.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from wordtree import class_list, load_tree
from wordtree.errors import FormatError
from wordtree.formats import load_map, read_lines
from wordtree.tree import WordTree
from yolo9000.checkpoint import load_darknet, load_model, read_metadata, save_model
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.weights import load_weights, read_header, save_weights
from yolo9000.datasets import open_dataset, read_records
from yolo9000.datasets.pack import pack, read_pack
from yolo9000.errors import CfgError, WeightsError, YOLO9000Error
from yolo9000.model import YOLO9000, load_any
from yolo9000.network import Network


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def survives(action: Callable[[], object]) -> object:
    """Run it; errors of ours, with a message, are fine, others are not."""
    try:
        return action()
    except YOLO9000Error as error:
        message = str(error)
    assert message.strip()
    return None


TEXT = """[net]
width=32
height=32
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
filters=2
activation=relu

[route]
layers=-1,-2

[convolutional]
size=1
filters=14
activation=linear

[region]
anchors=1,2, 3,4
num=2
classes=2
"""
GREEDY = TEXT.replace("32", "1").replace("filters=2", "filters=10000000")
TREE = WordTree([-1, -1, 0, 0], ["a", "b", "c", "d"], ["animal", "car", "cat", "dog"])
NUMBERS = (
    "0,-1,1,2,3,7,32,1000,65536,2147483647,2147483648,99999999999999999999,"
    "1e9,1e308,1e999,-1e9,nan,inf,0x10,1_0,\N{ARABIC-INDIC DIGIT ONE}"
)
WORDS = "leaky,linear,swish,9k.tree,coco,.tree,/dev/zero,..,é\0.tree,x,\0,=,[net],"
EXTREMES = [*NUMBERS.split(","), *WORDS.split(","), ",", "1,", "1,2", "a" * 300, "a" * 5000]
KEYS = (
    "width,height,channels,filters,size,stride,pad,padding,groups,activation,batch_normalize,layers,reverse,"
    "anchors,num,classes,coords,tied,tree,softmax,thresh,temperature,probability,flatten,jitter,background,"
    "from,alpha,beta,scale"
).split(",")
SECTIONS = (
    "net,convolutional,maxpool,avgpool,route,reorg,region,softmax,dropout,cost,shortcut,upsample".split(",")
)


@st.composite
def mutated(draw: st.DrawFn, source: bytes, alphabet: bytes = b"\0\xff =[]{},:\"'<>/-19\n") -> bytes:
    """A file with a few bytes changed, removed, repeated or put in, or cut off."""
    data = bytearray(source)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.sampled_from([1, 2, 4, 8, 50]))
        kind = draw(st.sampled_from(["change", "remove", "repeat", "insert", "cut"]))
        if kind == "change":
            data[at : at + 1] = bytes([draw(st.sampled_from(alphabet) | st.integers(0, 255))])
        elif kind == "remove":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length] * draw(st.integers(1, 5))
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=length))
        else:
            del data[at:]
    return bytes(data)


@st.composite
def cfgs(draw: st.DrawFn) -> str:
    """A network description with extreme values, and sections moved, doubled and missing."""
    blocks = [block.splitlines() for block in TEXT.split("\n\n")]
    for _ in range(draw(st.integers(1, 4))):
        block = blocks[draw(st.integers(0, len(blocks) - 1))]
        kind = draw(st.sampled_from(["value", "add", "section", "drop", "double"]))
        if kind == "value" and len(block) > 1:
            line = draw(st.integers(1, len(block) - 1))
            block[line] = f"{block[line].partition('=')[0]}={draw(st.sampled_from(EXTREMES))}"
        elif kind == "add":
            block.insert(1, f"{draw(st.sampled_from(KEYS))}={draw(st.sampled_from(EXTREMES))}")
        elif kind == "section":
            block[0] = f"[{draw(st.sampled_from(SECTIONS))}]"
        elif kind == "drop" and len(blocks) > 1:
            blocks.remove(block)
        elif kind == "double":
            blocks.append(list(block))
    return "\n\n".join("\n".join(block) for block in blocks)


MEMORY = 16 << 20  # bytes that refusing a network may take
VALUES = 4_000_000  # limit of parameters and of activations in these tests, 16 MB in float32


@pytest.fixture
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO9000_MAX_PARAMETERS", str(VALUES))
    monkeypatch.setenv("YOLO9000_MAX_ACTIVATIONS", str(VALUES))


@contextlib.contextmanager
def no_more_than(limit: int) -> Iterator[None]:
    """Peak of what Python and NumPy allocate."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def build(text: str) -> None:
    """From text to detections."""
    network = Network(Cfg.parse(text))
    assert sum(p.numel() for p in network.parameters()) <= VALUES
    if network.head is not None and network.cfg.height * network.cfg.width <= 1 << 16:
        YOLO9000(network, device="cpu").detect(torch.zeros(3, 8, 8, dtype=torch.uint8), threshold=0.1)


@pytest.mark.usefixtures("low_limits")
@fuzz(300)
@given(text=cfgs())
def test_cfg_with_extreme_values(text: str) -> None:
    survives(lambda: build(text))


@pytest.mark.usefixtures("low_limits")
@fuzz(150)
@given(data=mutated(TEXT.encode()) | st.binary(max_size=200))
def test_cfg_of_any_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.cfg"
    path.write_bytes(data)
    survives(lambda: build(Cfg.load(path).text))


HEAD = "[net]\nwidth={w}\nheight={w}\nchannels={c}\n"
SMALL_TO_LARGE = {
    "filters": "[conv]\nfilters=2000000000\nactivation=linear\n",
    "kernel": "[conv]\nsize=30000\npad=1\nactivation=linear\n",
    "padding": "[conv]\npadding=100000000\nstride=200000000\nactivation=linear\n",
    "pool": "[max]\nsize=1000000000\nstride=1000000000\n[conv]\nactivation=linear\n",
    "channels": "[conv]\nfilters=70000\nactivation=linear\n[conv]\nfilters=70000\nactivation=linear\n",
    "routes": "[conv]\nfilters=999\nactivation=linear\n" + 12 * "[route]\nlayers=-1,-1,-1,-1\n",
    "classes": "[conv]\nfilters=100000000\nactivation=linear\n[avg]\n[softmax]\n",
    "region": "[conv]\nfilters=900000000\nactivation=linear\n[region]\nclasses=999999995\nanchors=1,1\n",
    "anchors": "[conv]\nfilters=1000005000\nactivation=linear\n[region]\nclasses=1000000\nnum=1000\n"
    f"anchors={'1,' * 1999}1\n",
    "tied": "[conv]\nfilters=1005000\nactivation=linear\n[region]\nclasses=1000000\ntied=1\nnum=1000\n"
    f"anchors={'1,' * 1999}1\n",
    "layers": "[max]\n" * 150_000,
}


@pytest.mark.parametrize("name", SMALL_TO_LARGE)
@pytest.mark.parametrize(("w", "c"), [(1, 1), (32, 3), (65536, 65536), (2147483647, 2147483647)])
def test_small_cfgs_that_ask_for_gigabytes_are_refused_first(name: str, w: int, c: int) -> None:
    """In a process that may not take 2 GB more than it has: an allocation would fail the test."""
    text = HEAD.format(w=w, c=c) + SMALL_TO_LARGE[name]
    with (
        no_more_than(MEMORY),
        address_space(2 << 30),
        pytest.raises(CfgError, match=r"limit|expected|needs"),
    ):
        Network(Cfg.parse(text))


@contextlib.contextmanager
def address_space(more: int) -> Iterator[None]:
    resource = pytest.importorskip("resource")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# ---------------------------------------------------------------------------------------- weights, models


@pytest.fixture(scope="module")
def small() -> Network:
    torch.manual_seed(0)
    network = Network(Cfg.parse(TEXT), WordTree.flat(["a", "b"]))
    network.seen = 7
    return network.eval()


@st.composite
def weights_files(draw: st.DrawFn, whole: bytes) -> bytes:
    """Headers at random, values missing, left over, or any bits: NaN, infinity, denormal numbers."""
    version = draw(st.sampled_from([(0, 1, 0), (0, 2, 0), (0, 2, 5), (1, 0, 0), (999, 0, 0)]))
    if draw(st.booleans()):
        version = tuple(draw(st.integers(-(2**31), 2**31 - 1)) for _ in range(3))
    seen = draw(st.binary(min_size=4, max_size=8))
    values = bytearray(whole[20:])
    for _ in range(draw(st.integers(0, 5))):
        at = 4 * draw(st.integers(0, len(values) // 4 - 1))
        values[at : at + 4] = draw(
            st.sampled_from([b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff" * 4, b"\1\0\0\0"])
        )
    size = draw(st.sampled_from([len(values), 0, 1, 4, 3, len(values) - 4]))
    return struct.pack("<3i", *version) + seen + bytes(values[:size]) + draw(st.binary(max_size=9))


@fuzz(200)
@given(data=st.data())
def test_weights_files(tmp_path: Path, small: Network, data: st.DataObject) -> None:
    good, path = tmp_path / "good.weights", tmp_path / "bad.weights"
    if not good.exists():
        save_weights(small, good)
        (tmp_path / "x.cfg").write_text(TEXT)
    whole = good.read_bytes()
    path.write_bytes(data.draw(weights_files(whole) | mutated(whole) | st.binary(max_size=64)))
    survives(lambda: read_header(path))
    network = survives(lambda: load_darknet(tmp_path / "x.cfg", path))
    if isinstance(network, Network):  # values that are no numbers give no detections, but no crash
        survives(lambda: YOLO9000(network, device="cpu").detect(torch.zeros(3, 9, 9, dtype=torch.uint8)))
        save_weights(network, tmp_path / "again.weights")
        assert (tmp_path / "again.weights").read_bytes() == path.read_bytes()
    survives(lambda: load_weights(Network(Cfg.parse(TEXT)), path, partial=True))


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc/self/status", "x\0y", "a" * 5000, "/", ""])
def test_paths_that_are_no_files(tmp_path: Path, path: str) -> None:
    (tmp_path / "x.cfg").write_text(TEXT)
    for action in (
        lambda: load_darknet(tmp_path / "x.cfg", path),
        lambda: Cfg.load(path),
        lambda: load_tree(path),
        lambda: load_tree(path + ".tree"),
        lambda: class_list(path),
        lambda: YOLO9000.load(path),
        lambda: YOLO9000.load(f"{path}.onnx"),
        lambda: load_any(path),
        lambda: load_model(path),
        lambda: Cfg.parse(TEXT + f"tree={path}\n") and Network(Cfg.parse(TEXT + f"tree={path}.tree\n")),
    ):
        with pytest.raises(YOLO9000Error):
            action()


def model_bytes(small: Network, tmp_path: Path) -> bytes:
    path = tmp_path / "whole.safetensors"
    if not path.exists():
        save_model(small, path, metadata={"threshold": "0.3"})
    return path.read_bytes()


def with_header(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A safetensors file whose header is changed, its tensors as they are."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


TEXTS = st.sampled_from(
    ["", "-1", "1", "0.2", "1e99", "9" * 5000, "nan", "a b", "n -2", "\n", "\0", "[net]", "torch"]
)
METADATA = st.sampled_from(
    ["format", "cfg", "tree", "names", "batchnorm", "seen", "weights_version", "threshold"]
)


@st.composite
def models(draw: st.DrawFn, data: bytes) -> bytes:
    def change(header: dict[str, Any]) -> None:
        about = header["__metadata__"]
        for _ in range(draw(st.integers(1, 3))):
            kind = draw(st.sampled_from(["text", "cfg", "remove", "tensor", "dtype", "shape", "tree"]))
            names = [key for key in header if key != "__metadata__"]
            name = draw(st.sampled_from(names or ["x"]))
            if kind == "text":
                about[draw(METADATA)] = draw(TEXTS)
            elif kind == "cfg":
                about["cfg"] = draw(cfgs())
            elif kind == "tree":
                about["tree"] = draw(
                    st.sampled_from(["a -1\nb 1000000000000000000000", "a 0\nb -1", "a -1\na -1"])
                )
            elif kind == "remove":
                about.pop(draw(METADATA), None)
            elif kind == "tensor":
                header.pop(name, None)
            elif name in header and kind == "dtype":
                header[name]["dtype"] = draw(
                    st.sampled_from(["F16", "I32", "U8", "BOOL", "F8_E4M3", "C64", "F4", "X", ""])
                )
            elif name in header:
                header[name]["shape"] = draw(st.sampled_from([[], [0], [2**62, 4], [-1], [1] * 70, "x"]))

    return with_header(data, change)


@pytest.mark.usefixtures("low_limits")
@fuzz(250)
@given(data=st.data())
def test_model_files(tmp_path: Path, small: Network, data: st.DataObject) -> None:
    whole, path = model_bytes(small, tmp_path), tmp_path / "bad.safetensors"
    path.write_bytes(data.draw(models(whole) | mutated(whole) | st.binary(max_size=64)))
    survives(lambda: read_metadata(path))
    result = survives(lambda: load_model(path))
    if isinstance(result, tuple):
        picture = torch.zeros(3, 9, 9, dtype=torch.uint8)
        survives(lambda: YOLO9000(result[0], metadata=result[1], device="cpu").detect(picture))
        save_weights(result[0], tmp_path / "again.weights")


def test_model_file_whose_cfg_asks_for_more_than_it_holds(tmp_path: Path, small: Network) -> None:
    """Within the limits of any cfg, 760 MB, but not what the file has: nothing is allocated."""
    data = with_header(model_bytes(small, tmp_path), lambda h: h["__metadata__"].update(cfg=GREEDY))
    (tmp_path / "x.safetensors").write_bytes(data)
    with (
        no_more_than(MEMORY),
        address_space(1 << 29),
        pytest.raises(WeightsError, match="parameters, but its"),
    ):
        load_model(tmp_path / "x.safetensors")


def test_cfg_that_asks_for_more_than_its_weights_hold(tmp_path: Path, small: Network) -> None:
    (tmp_path / "x.cfg").write_text(GREEDY)
    save_weights(small, tmp_path / "x.weights")
    with no_more_than(MEMORY), address_space(1 << 29), pytest.raises(WeightsError, match=r"needs .* values"):
        load_darknet(tmp_path / "x.cfg", tmp_path / "x.weights")


# --------------------------------------------------------------------------------------------- tree files


@fuzz(250)
@given(suffix=st.sampled_from([".tree", ".json", ".csv", ".graphml"]), data=st.data())
def test_tree_files(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    good, path = tmp_path / f"good{suffix}", tmp_path / f"bad{suffix}"
    if not good.exists():
        TREE.save(good)
    path.write_bytes(data.draw(mutated(good.read_bytes()) | st.binary(max_size=60)))
    tree = survives(lambda: load_tree(path))
    assert tree is None or isinstance(tree, WordTree)


ENCODINGS = ["foo", "utf-7", "utf-16", "utf-32", "gb18030", "rot13", "idna", "hex"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_graphml_in_another_encoding_than_it_says(tmp_path: Path, encoding: str) -> None:
    TREE.save(tmp_path / "x.graphml")
    text = (tmp_path / "x.graphml").read_text().partition("?>")[2]
    (tmp_path / "x.graphml").write_text(f'<?xml version="1.0" encoding="{encoding}"?>{text}')
    survives(lambda: load_tree(tmp_path / "x.graphml"))


LAUGHS = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
BOMBS = {
    ".json": ["[" * 100_000, '{"nodes":[' + "9" * 5000 + "]}", '{"nodes":[{"id":1e999}]}', "null", '"x"'],
    ".graphml": [f'<!DOCTYPE x [<!ENTITY e0 "haha">{LAUGHS}]><graphml>&e11;</graphml>', "<a>" * 50_000],
    ".csv": ["x" * 200_000, '"' + "a," * 5, "a,\na,a", "a,b\nb,a"],
    ".tree": ["a 99999999999999999999", "a ٣", "a -1\n\n\nb -1", "a -1 " * 1000],
}


@pytest.mark.parametrize(("suffix", "text"), [(suffix, text) for suffix in BOMBS for text in BOMBS[suffix]])
def test_bombs(tmp_path: Path, suffix: str, text: str) -> None:
    (tmp_path / f"x{suffix}").write_text(text, encoding="utf-8")
    with no_more_than(200 << 20), pytest.raises(FormatError):
        load_tree(tmp_path / f"x{suffix}")


@fuzz(150)
@given(data=st.data())
def test_names_labels_maps_and_class_lists(tmp_path: Path, data: st.DataObject) -> None:
    TREE.save(tmp_path / "x.tree")
    lists = {"x.names": b"animal\ncar\ncat\ndog\n", "x.labels": b"a\nb\nc\nd\n", "x.map": b"0\n2\n3\n"}
    name = data.draw(st.sampled_from([*lists, "x.classes"]))
    path = tmp_path / name
    path.write_bytes(
        data.draw(mutated(lists.get(name, b"n02084071\nn02121620 cat\nzebra\n")) | st.binary(max_size=40))
    )
    for action in (
        lambda: load_map(path, TREE),
        lambda: load_map(path),
        lambda: read_lines(path),
        lambda: class_list(path),
        lambda: load_tree(tmp_path / "x.tree"),
    ):
        survives(action)


# ---------------------------------------------------------------------------------------------- data sets

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}],
    "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
    "annotations": [{"id": 3, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3.5, 4], "iscrowd": 0}],
}
ODD_NUMBERS = [True, -1, 10**400, 1e308, float("nan"), float("inf")]
JSON_VALUES = st.sampled_from(
    [None, *ODD_NUMBERS, "x", "", "\0", [], [1], {}, {"id": []}, [[]], [1, 2, 3, 4]]
)
XML = (
    "<annotation><filename>a.jpg</filename><object><name>cat</name><difficult>0</difficult>"
    "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></object></annotation>"
)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    for folder in ("annotations", "train"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "a.jpg")
    return tmp_path


def everything(spec: str) -> None:
    dataset = open_dataset(spec, TREE)
    for index in range(min(len(dataset), 3)):
        dataset.nodes(index)
        dataset[index]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # 1e308 pixels are infinite in float32
@fuzz(200)
@given(data=st.data())
def test_coco_json(coco: Path, data: st.DataObject) -> None:
    content = json.loads(json.dumps(COCO))
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(list(COCO)))
        if data.draw(st.integers(0, 5)) == 0:
            content[key] = data.draw(JSON_VALUES)
        elif isinstance(content[key], list) and content[key] and isinstance(content[key][0], dict):
            field = data.draw(st.sampled_from(sorted(COCO[key][0])))
            content[key][0][field] = data.draw(JSON_VALUES)
    text = json.dumps(content).encode()
    path = coco / "annotations" / "instances_train.json"
    path.write_bytes(data.draw(st.just(text) | mutated(text)))
    survives(lambda: everything(f"coco:{coco}"))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + "9" * 5000 + "}", "\udcff"])
def test_coco_json_bombs(coco: Path, text: str) -> None:
    path = coco / "annotations" / "instances_train.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(YOLO9000Error, match="JSON"):
        read_records(f"coco:{coco}")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@fuzz(200)
@given(data=st.data())
def test_voc_xml_and_lists(tmp_path: Path, data: st.DataObject) -> None:
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "JPEGImages" / "a.jpg")
    head = data.draw(
        st.sampled_from(["", *(f'<?xml version="1.0" encoding="{name}"?>' for name in ENCODINGS)])
    )
    xml = (head + XML).encode()
    (tmp_path / "Annotations" / "a.xml").write_bytes(data.draw(st.just(xml) | mutated(xml)))
    names = data.draw(
        st.sampled_from([b"a\n", b"a -1\n", b"/etc/passwd", b"../a", b"\0", b"\xff", b"b" * 5000, b""])
    )
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_bytes(data.draw(st.just(b"a\n") | st.just(names)))
    survives(lambda: everything(f"voc:{tmp_path}"))


YAML = b"path: .\ntrain: [images, all.txt]\nnc: 2\nnames:\n  0: cat\n  1: dog\n"
LINES = b"0 0.5 0.5 0.25 0.5\n1 .1 .1 .2 .2 .3 .1\n"


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.jpg")
    (tmp_path / "all.txt").write_text("images/a.jpg\n")
    (tmp_path / "x.names").write_text("cat\ndog\n")
    return tmp_path


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@fuzz(100)
@given(data=st.data())
def test_yolo_and_darknet(yolo: Path, data: st.DataObject) -> None:
    def damaged(source: bytes) -> bytes:
        return data.draw(st.just(source) | mutated(source))

    numbers = st.sampled_from([*NUMBERS.split(","), "0", "1", "0.5", "x", "\0"])
    line = " ".join(data.draw(st.lists(numbers, max_size=9))).encode()
    (yolo / "labels" / "a.txt").write_bytes(data.draw(st.just(line) | mutated(LINES)))
    (yolo / "all.txt").write_bytes(damaged(b"images/a.jpg\n./images/b.jpg\n"))
    (yolo / "data.yaml").write_bytes(damaged(YAML))
    (yolo / "x.data").write_bytes(damaged(b"classes=2\ntrain=all.txt\nnames=x.names\nlabels=x.names\n"))
    for spec in (
        "yolo:{}/data.yaml",
        "darknet:{}/x.data",
        "darknet:{}/all.txt",
        "darknet-classifier:{}/x.data",
    ):
        survives(lambda spec=spec: everything(spec.format(yolo)))  # type: ignore[misc]


@pytest.mark.parametrize(
    "text", ["&a [" * 3000, "a: " * 5000, "names: &a [*a]\ntrain: .", "? {[]: 1}", "!!x 1"]
)
def test_yaml_bombs(yolo: Path, text: str) -> None:
    (yolo / "data.yaml").write_text(text)
    with pytest.raises(YOLO9000Error, match=r"data\.yaml"):
        read_records(f"yolo:{yolo}")


@fuzz(80)
@given(data=st.data())
def test_tars(tmp_path: Path, data: st.DataObject) -> None:
    inner, outer = tmp_path / "cat.tar", tmp_path / "outer.tar"
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, format="PNG")
    form = data.draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    name = data.draw(st.sampled_from(["a.png", "b" * 150 + "/a.png", "\u00e9.png"]))
    for path, member, content in ((inner, name, picture.getvalue()), (outer, "cat.tar", None)):
        content = inner.read_bytes() if content is None else content
        with tarfile.open(path, "w", format=form) as archive:
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    source = outer.read_bytes()
    outer.write_bytes(data.draw(mutated(source[:2048]) | mutated(source)) + source[2048:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLO9000_CACHE", str(tmp_path / "cache"))
        survives(lambda: everything(f"imagenet-tar:{outer}"))


def spoil(path: Path, name: str, value: object) -> None:
    with h5py.File(path, "r+") as file:
        if name in ("format", "kind", "rules"):
            file.attrs[name] = value
            return
        del file[name]
        if value is not None:
            file[name] = value


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "x",
        np.zeros(0),
        np.zeros((1, 1)),
        np.full(1, 2**62),
        np.full(2, -1),
        np.full(5, np.nan),
        [b"x"],
    ],
)
def test_packs(coco: Path, value: object) -> None:
    (coco / "annotations" / "instances_train.json").write_text(json.dumps(COCO))
    good = pack(read_records(f"coco:{coco}"), coco / "good.h5").read_bytes()
    with h5py.File(coco / "good.h5") as file:
        names = ["format", "kind", "rules", *file]
    for name in names:
        if name in ("format", "kind", "rules") and value is None:
            continue
        path = coco / "bad.h5"
        path.write_bytes(good)
        spoil(path, name, value)
        survives(lambda: everything(f"pack:{coco / 'bad.h5'}"))


def test_pack_that_claims_more_than_the_file_holds(coco: Path) -> None:
    (coco / "annotations" / "instances_train.json").write_text(json.dumps(COCO))
    path = pack(read_records(f"coco:{coco}"), coco / "x.h5")
    with h5py.File(path, "r+") as file:
        del file["label_ids"], file["ignored"], file["boxes"]
        for name, shape in (("label_ids", (10**9,)), ("ignored", (10**9,)), ("boxes", (10**9, 4))):
            file.create_dataset(name, shape, dtype="f4" if name == "boxes" else "i4", chunks=True)
    with no_more_than(MEMORY), pytest.raises(YOLO9000Error, match="larger than the file"):
        read_pack(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_packs_that_are_cut_off(coco: Path, share: float) -> None:
    (coco / "annotations" / "instances_train.json").write_text(json.dumps(COCO))
    path = pack(read_records(f"coco:{coco}"), coco / "x.h5")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(YOLO9000Error):
        everything(f"pack:{path}")
