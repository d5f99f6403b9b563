"""Model files: what goes in comes out, and what is damaged is refused with its reason."""

from __future__ import annotations

import errno
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from toys import POOL, conv, input_size, linear, region
from wordtree.tree import WordTree
from yolo9000.checkpoint import FORMAT, load_model, read_metadata, save_model
from yolo9000.darknet.cfg import Cfg
from yolo9000.errors import FormatError, WeightsError
from yolo9000.network import Network

TRUNK = input_size(64) + conv(8, stride=2) + POOL
REGION = region(5, "1,1, 3,2", softmax=1)
PLAIN = TRUNK + linear(2 * (5 + 5)) + REGION
TIED = TRUNK + linear(2 * 5 + 5) + REGION + "tied=1\n"
TREE = WordTree(
    [-1, -1, 0, 0, 3], ["n0", "n1", "n2", "n3", "n4"], ["animal", "vehicle", "cat", "dog", "chow-chow"]
)


def network(tied: bool = False) -> Network:
    torch.manual_seed(1)
    net = Network(Cfg.parse(TIED if tied else PLAIN), TREE)
    net.seen = 12_345
    for name, buffer in net.named_buffers():
        if name.endswith("var"):
            buffer.uniform_(1e-9, 1e6)  # more than float16 holds
    return net


@pytest.mark.parametrize("tied", [False, True])
def test_round_trip(tmp_path: Path, tied: bool) -> None:
    net = network(tied)
    net.batchnorm = "darknet"
    path = tmp_path / "new" / "tiny.safetensors"
    save_model(net, path, metadata={"threshold": "0.3", "card": "größer\nzweite Zeile"})
    again, metadata = load_model(path)
    assert again.tree == TREE
    assert (again.cfg.text, again.seen, again.batchnorm) == (net.cfg.text, 12_345, "darknet")
    assert metadata["format"] == FORMAT
    assert metadata["card"] == "größer\nzweite Zeile"
    assert metadata == read_metadata(path)
    state, loaded = net.state_dict(), again.state_dict()
    assert set(state) == set(loaded)
    assert all(torch.equal(state[name], loaded[name]) for name in state)
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(net.eval()(image), again.eval()(image))


def test_half_precision_keeps_running_statistics(tmp_path: Path) -> None:
    net = network()
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_model(net, full)
    save_model(net, half, half=True)
    with safe_open(str(half), framework="pt") as file:
        kinds = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    buffers = {name for name, _ in net.named_buffers()}
    parameters = {name for name, _ in net.named_parameters()}
    assert parameters
    assert all(kinds[name] == torch.float16 for name in parameters)
    assert all(kinds[name] != torch.float16 for name in kinds if name in buffers)
    again, _ = load_model(half)
    for name, value in again.state_dict().items():
        original = net.state_dict()[name]
        assert value.dtype == original.dtype
        assert torch.equal(value, original.half().float() if name in parameters else original)


def test_half_refuses_what_float16_cannot_hold(tmp_path: Path) -> None:
    net = network()
    assert net.head is not None
    with torch.no_grad():
        net.head.box_bias[0, 0] = 1e5
    with pytest.raises(WeightsError, match=r"head\.box_bias has values beyond"):
        save_model(net, tmp_path / "x.safetensors", half=True)
    assert list(tmp_path.iterdir()) == []


def test_metadata_must_be_new_strings(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="tree is written by save_model itself"):
        save_model(network(), tmp_path / "x", metadata={"tree": "mine"})
    with pytest.raises(WeightsError, match="threshold is not"):
        save_model(network(), tmp_path / "x", metadata={"threshold": 0.3})  # type: ignore[dict-item]


@pytest.mark.parametrize("name", ["model.onnx", "model.PT2", "model.weights", "last.ckpt"])
def test_endings_of_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="another format's"):
        save_model(network(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_fused_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="fused"):
        save_model(network().fuse(), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_survives_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(network(), path)
    before = path.read_bytes()
    bad = network()
    with torch.no_grad():
        next(bad.parameters()).fill_(1e6)
    with pytest.raises(WeightsError):
        save_model(bad, path, half=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    save_model(network(), path)
    return path


def rewrite(path: Path, change: object, drop: str | None = None) -> None:
    """Write the file anew with other metadata."""
    with safe_open(str(path), framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata.update(change)  # type: ignore[call-overload]
    if drop:
        (metadata if drop in metadata else tensors).pop(drop)  # type: ignore[attr-defined]
    save_file(tensors, str(path), metadata=metadata)


@pytest.mark.parametrize("size", [0, 5, 100, -1, -1000])
def test_cut_off_files(saved: Path, size: int) -> None:
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(WeightsError, match=r"m\.safetensors: expected a model file"):
        load_model(saved)


def test_bytes_left_over(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"more")
    with pytest.raises(WeightsError, match="expected a model file"):
        load_model(saved)


def test_a_header_that_claims_too_much(saved: Path) -> None:
    saved.write_bytes(struct.pack("<Q", 2**60) + saved.read_bytes()[8:])
    with pytest.raises(WeightsError, match="expected a model file"):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "drop", "message"),
    [
        ({"format": "pt"}, None, "not a yolo9000 model: expected metadata format 'yolo9000-1', found 'pt'"),
        ({}, "format", "found ''"),
        ({"format": "yolo9000-2"}, None, "format 'yolo9000-2'; this version reads 'yolo9000-1'"),
        ({}, "cfg", "metadata lack cfg"),
        ({}, "names", "metadata lack names"),
        ({"cfg": "[net"}, None, "description is damaged"),
        ({"tree": "n0 -1\nn1"}, None, "line 2 of its tree"),
        ({"tree": "n0 x"}, None, "description is damaged"),
        ({"tree": "n0 -1\nn1 -1", "names": "a\nb"}, None, "describes 5 classes"),
        ({"names": "one"}, None, "expected 5 names"),
        ({"seen": "many"}, None, "description is damaged"),
        ({"batchnorm": "caffe"}, None, "must be 'torch' or 'darknet'"),
        ({}, "head.box_bias", "head.box_bias is missing"),
        ({"cfg": PLAIN.replace("filters=8", "filters=4")}, None, "the cfg wants"),
    ],
)
def test_wrong_content(saved: Path, change: dict[str, str], drop: str | None, message: str) -> None:
    rewrite(saved, change, drop)
    with pytest.raises(WeightsError, match=message):
        load_model(saved)


def test_a_file_that_may_not_be_read_is_not_called_damaged(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:  # root may read everything
        raise PermissionError(errno.EACCES, "Permission denied", str(saved))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(WeightsError, match=r"cannot be read \(Permission denied\)\.$"):
        load_model(saved)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such model file"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="no such model file"):
        load_model(tmp_path)
    text = tmp_path / "yolo.cfg"
    text.write_text(PLAIN)
    with pytest.raises(WeightsError, match="expected a model file"):
        load_model(text)


def test_a_model_file_is_a_tree_file_too(
    saved: Path, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    assert WordTree.load(saved) == TREE
    code, out, _ = command_line("tree", "path", "chow-chow", "--tree", saved)
    assert (code, "cat" in out, "chow-chow" in out) == (0, False, True)
    code, _, _ = command_line(
        "retree", "yolo9000-nano", "--tree", saved, "-o", saved.with_name("n.safetensors")
    )
    assert (code, WordTree.load(saved.with_name("n.safetensors"))) == (0, TREE)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "it has no '__metadata__'"),
        ({"tree": "n0 -1"}, "it has no 'names'"),
        ({"tree": "n0", "names": "a"}, "line 1 of its tree is not"),
        ({"tree": "n0 -1", "names": "a\nb"}, "expected 1 names"),
        ({"tree": 5, "names": "a"}, "with its tree inside"),
        (5, "with its tree inside"),
    ],
)
def test_a_file_of_others_is_no_tree(tmp_path: Path, metadata: object, message: str) -> None:
    header = json.dumps({} if metadata is None else {"__metadata__": metadata}).encode()
    path = tmp_path / "x.safetensors"
    for data in (len(header).to_bytes(8, "little") + header, b"", b"\xff" * 40):
        path.write_bytes(data)
        with pytest.raises(FormatError, match=message if header in data else "with its tree inside"):
            WordTree.load(path)
    with pytest.raises(FormatError, match="cannot be read: No such file"):
        WordTree.load(tmp_path / "none.safetensors")


def test_the_header_is_plain_json(saved: Path) -> None:
    """Anybody can read what a model is without this package."""
    data = saved.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert header["__metadata__"]["tree"] == "n0 -1\nn1 -1\nn2 0\nn3 0\nn4 3"
    assert header["__metadata__"]["names"].split("\n") == list(TREE.names)
