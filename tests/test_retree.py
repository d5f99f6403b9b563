"""Another tree for a trained model: kept rows, zero rows, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from toys import CLASSIFIED, PETS, conv, input_size, linear, region
from wordtree.taxonomy import read_yaml
from wordtree.tree import WordTree
from yolo9000.checkpoint import load_model, read_metadata, save_model
from yolo9000.darknet.cfg import Cfg
from yolo9000.errors import YOLO9000Error
from yolo9000.network import Network
from yolo9000.retree import retree, retree_file

TRUNK = input_size(64) + conv(4, stride=2)
REGION = region(5, "1,2, 3,4", map="old.map")
# gone: vehicle; come: chair, office chair, armchair, husky; moved: cat, now at the top
NEW = WordTree.from_edges(
    ["n0", "n2", "c", "n3", "n4", "h", "c1", "c2"],
    [None, None, None, "n0", "n3", "n3", "c", "c"],
    ["animal", "cat", "chair", "dog", "pug", "husky", "office chair", "armchair"],
)
KINDS = {
    "detector": TRUNK + linear(20) + REGION,
    "tied": TRUNK + linear(15) + REGION + "tied=1\n",
    "classifier": TRUNK + linear(5) + CLASSIFIED + "groups=1\n",
}


def trained(kind: str) -> Network:
    torch.manual_seed(0)
    network = Network(Cfg.parse(KINDS[kind]), PETS).eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape))
    network.seen = 77
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_nodes_that_stay_are_the_same(kind: str) -> None:
    network = trained(kind)
    again, change = retree(network, NEW)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = network.class_logits(network.features(images))
        after = again.class_logits(again.features(images))
        if network.head is not None and again.head is not None:
            features = network.features(images)
            assert torch.equal(network.head.boxes(features), again.head.boxes(features))
    for node, wnid in enumerate(NEW.wnids):
        old = PETS.node_of(wnid)
        expected = torch.zeros(2) if old is None else before[:, old]
        torch.testing.assert_close(after[:, node], expected)
    new_group = torch.tensor([NEW.index("c1"), NEW.index("c2")])
    probabilities = again.ops.log_softmax(after).exp()[:, new_group]
    torch.testing.assert_close(probabilities, torch.full((2, 2), 0.5))
    assert (change.stayed, change.moved) == (["animal", "dog", "pug"], ["cat"])
    assert (sorted(change.came), change.went) == (["armchair", "chair", "husky", "office chair"], ["vehicle"])
    assert again.seen == 77


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind: str) -> None:
    """The old tree again: what stayed is as it was, what was gone is zero."""
    network = trained(kind)
    back = retree(retree(network, NEW)[0], PETS)[0]
    for name, tensor in back.state_dict().items():
        original = network.state_dict()[name]
        if original.shape != tensor.shape or torch.equal(original, tensor):
            continue
        axis = 1 if name.startswith("head.") else 0
        differs = (
            (original != tensor).transpose(0, axis).flatten(1).any(1)
            if tensor.dim() > 1
            else original != tensor
        )
        assert differs.tolist() == [False, True, False, False, False], name
    same, change = retree(network, PETS)
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), same.state_dict().values(), strict=True)
    )
    assert (len(change.stayed), change.moved, change.came, change.went) == (5, [], [], [])


@pytest.mark.parametrize("twins", ["jaguar", "big cat"])
def test_nodes_of_one_name_are_told_apart_by_what_is_above(twins: str, tmp_path: Path) -> None:
    """The numbers of invented ids go by the order in the file: a twin before an old node takes its id."""
    one, two = tmp_path / "old.yaml", tmp_path / "new.yaml"
    one.write_text(f"car: [{twins}, mini, beetle]\nthing:")
    two.write_text(f"animal: [cat, {twins}]\ncar: [mini, {twins}, beetle]\nthing:\nboat: [{twins}]")
    old, new = read_yaml(one), read_yaml(two)
    network = Network(Cfg.parse(TRUNK + linear(20) + REGION), old)
    again, change = retree(network, new)
    assert network.head is not None
    assert again.head is not None
    node_of_old = {node: old.node_of(new.wnids[node]) for node in range(len(new))}
    node_of_old |= dict.fromkeys(new.named(twins))
    node_of_old[next(node for node in new.named(twins) if node in new.subtree("car"))] = old.index(twins)
    for node, before in node_of_old.items():
        expected = torch.tensor(0.0) if before is None else network.head.class_weight[:, before]
        assert (again.head.class_weight[:, node] == expected).all(), new.path(node)
    assert (len(change.stayed), change.moved, change.went) == (5, [], [])
    assert change.came.count(twins) == 2
    back, change = retree(again, old)
    assert back.head is not None
    assert torch.equal(back.head.class_weight, network.head.class_weight)
    assert change.went.count(twins) == 2


def test_a_plain_list_with_one_name_twice_stays() -> None:
    tree = WordTree.flat(["crane", "cat", "crane"])
    _, change = retree(Network(Cfg.parse(TRUNK + linear(16) + region(3, "1,2, 3,4")), tree), tree)
    assert list(change.stayed) == list(tree.names)


def test_file_to_file(tmp_path: Path) -> None:
    own = {"threshold": "0.3", "hier_threshold": "0.7", "licence": "MIT"}
    save_model(trained("detector"), tmp_path / "a.safetensors", metadata=own | {"voc_map50": "0.5"})
    change = retree_file(tmp_path / "a.safetensors", NEW, tmp_path / "b.safetensors")
    network, metadata = load_model(tmp_path / "b.safetensors")
    assert network.tree == NEW
    assert network.cfg.region is not None
    assert network.cfg.region.map is None
    assert own.items() <= metadata.items()
    assert "voc_map50" not in read_metadata(tmp_path / "b.safetensors"), "measured with the old tree"
    assert str(change).splitlines()[1].split()[:2] == ["moved", "1"]
    assert str(change).splitlines()[1].endswith(": cat")
    with pytest.raises(YOLO9000Error, match="neither a model file nor a known name"):
        retree_file(tmp_path / "none.safetensors", NEW, tmp_path / "b.safetensors")


def test_to_a_flat_list_and_to_one_class() -> None:
    for tree in (WordTree.flat(["n4", "n9"]), WordTree.flat(["n4"])):
        again, change = retree(trained("detector"), tree)
        assert len(change.went) == 4
        assert again(torch.rand(1, 3, 64, 64)).shape[1] == 2 * (5 + len(tree))
