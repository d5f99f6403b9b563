"""Networks: layers against slow references, training, folding, transfer and the table of layers."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from toys import CLASSIFIED, POOL, conv, input_size, linear, region
from wordtree.tree import WordTree
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.describe import describe
from yolo9000.darknet.layers import Convolution, DarknetBatchNorm, MaxPool, Reorg
from yolo9000.darknet.plan import plan_layers
from yolo9000.decode import Decoder
from yolo9000.errors import CfgError, CfgWarning, ImageError
from yolo9000.network import Network

NET = input_size(64)

#      top            a b c in the top group, d e under a
#    a  b  c
#   d e
TREE = WordTree([-1, -1, -1, 0, 0], ["a", "b", "c", "d", "e"])

BACKBONE = NET + conv(8) + POOL + conv(16) + POOL
CLASSIFIER = BACKBONE + linear(5) + CLASSIFIED
REGION = region(5, "1,2, 3,4")
DETECTOR = BACKBONE + linear(20) + REGION
TIED = BACKBONE + linear(15) + REGION + "tied=1\n"
# A passthrough as in YOLOv2: layer 2 folded to layer 4's size.
FOLD = "[route]\nlayers=2\n[reorg]\nstride=2\n[route]\nlayers=-1,4\n"
PASSTHROUGH = BACKBONE + conv(12) + FOLD + conv(16) + linear(20) + REGION


def network(text: str, tree: WordTree | None = TREE, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    net = Network(Cfg.parse(text), tree)
    for module in net.modules():
        if isinstance(module, DarknetBatchNorm):  # statistics of a network that has seen something
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    return net


def images(batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
    return torch.rand((batch, 3, height, width), generator=torch.Generator().manual_seed(9))


# --- single layers against loops


def layer_plan(layer: str, channels: int = 4, height: int = 6, width: int = 8):  # type: ignore[no-untyped-def]
    return plan_layers(Cfg.parse(input_size(width, height, channels) + layer))[0]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 4), (7, 7), (8, 6)])
@pytest.mark.parametrize(
    "options",
    ["size=2\nstride=2", "size=2\nstride=1", "size=3\nstride=2", "size=3\nstride=1", "stride=3", "size=5"],
)
def test_maxpool_equals_darknets_loop(options: str, height: int, width: int) -> None:
    plan = layer_plan(f"[maxpool]\n{options}\n", 2, height, width)
    x = torch.randn(2, 2, height, width) - 5  # below zero: padding with zeros would show
    offset = -(plan.padding // 2)
    expected = torch.full((2, *plan.output), -torch.inf)
    for y in range(plan.output[1]):
        for z in range(plan.output[2]):
            top, left = offset + y * plan.step, offset + z * plan.step
            window = x[:, :, max(top, 0) : top + plan.kernel, max(left, 0) : left + plan.kernel]
            expected[:, :, y, z] = window.amax((2, 3))
    assert torch.equal(MaxPool(plan)(x), expected)


def reorg_cpu(x: np.ndarray, w: int, h: int, c: int, stride: int, forward: bool) -> np.ndarray:
    """The index arithmetic of darknet's blas.c, one value at a time, on flat memory."""
    out = np.zeros_like(x)
    out_c = c // (stride * stride)
    for k in range(c):
        for j in range(h):
            for i in range(w):
                inside = i + w * (j + h * k)
                c2, offset = k % out_c, k // out_c
                w2, h2 = i * stride + offset % stride, j * stride + offset // stride
                outside = w2 + w * stride * (h2 + h * stride * c2)
                if forward:
                    out[outside] = x[inside]
                else:
                    out[inside] = x[outside]
    return out


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("reverse", [0, 1])
def test_reorg_equals_darknets_loop(stride: int, reverse: int) -> None:
    plan = layer_plan(f"[reorg]\nstride={stride}\nreverse={reverse}\n", 36, 6, 12)
    x = torch.randn(2, 36, 6, 12)
    expected = [reorg_cpu(image.numpy().ravel(), 12, 6, 36, stride, bool(reverse)) for image in x]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        got = Reorg(plan)(x.contiguous(memory_format=memory_format))
        assert tuple(got.shape) == (2, *plan.output)
        assert np.array_equal(got.reshape(2, -1).numpy(), np.stack(expected))
    if stride == 2 and not reverse:
        assert not torch.equal(got, torch.nn.functional.pixel_unshuffle(x, 2))


def test_reorg_names_a_map_that_does_not_divide() -> None:
    with pytest.raises(ImageError, match=r"\[reorg\] needs a map that is a multiple of 2, got 5 x 8"):
        Reorg(layer_plan("[reorg]\nstride=2\n"))(torch.zeros(1, 4, 5, 8))


def test_batch_norm_formulas() -> None:
    norm = DarknetBatchNorm(3).eval()
    norm.running_mean.copy_(torch.tensor([0.0, 1, -2]))
    norm.running_var.copy_(torch.tensor([4.0, 1e-10, 0]))
    torch.nn.init.constant_(norm.weight, 3)
    torch.nn.init.constant_(norm.bias, 0.5)
    x = torch.randn(2, 3, 2, 2)
    centred = x.double() - norm.running_mean.double().view(3, 1, 1)
    variance = norm.running_var.double().view(3, 1, 1)
    darknet = 3 * centred / (variance.sqrt() + 1e-6) + 0.5
    common = 3 * centred / (variance + 1e-5).sqrt() + 0.5
    with torch.no_grad():
        torch.testing.assert_close(norm(x), common.float())
        norm.mode = "darknet"
        torch.testing.assert_close(norm(x), darknet.float())
        scale, shift = norm.scale_shift()
        torch.testing.assert_close(x.double() * scale.view(3, 1, 1) + shift.view(3, 1, 1), darknet)
    norm.train()
    trained = norm(x)
    norm.mode = "torch"
    torch.testing.assert_close(norm(x), trained)  # training knows one formula only


@pytest.mark.parametrize("activation", ["leaky", "relu", "logistic", "linear"])
@pytest.mark.parametrize("norm", [0, 1])
def test_activations_in_place_keep_the_gradient(activation: str, norm: int) -> None:
    torch.manual_seed(1)
    plan = layer_plan(conv(3, 3, activation, norm), 2, 3, 3)
    layer = Convolution(plan).double()
    x = torch.randn(2, 2, 3, 3, dtype=torch.double, requires_grad=True)
    parameters = tuple(layer.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *parameters))


# --- whole networks


def test_shapes_and_attributes() -> None:
    net = network(PASSTHROUGH)
    assert (net.stride, net.last, net.seen) == (4, 9, 0)
    assert net.head is not None
    assert net.features(images(2, 32, 48)).shape == (2, 16, 8, 12)
    assert net(images(2, 32, 48)).shape == (2, 2 * (5 + 5), 8, 12)
    assert net.class_logits(net.features(images())).shape == (2, 5)


@pytest.mark.parametrize(
    ("end", "multiple"),
    [
        ("", 4),
        ("[upsample]\n[shortcut]\nfrom=1\n", 4),
        ("[upsample]\nstride=4\n", 4),
        ("[route]\nlayers=1\n", 2),  # what lies between leads nowhere, and is not run
        (conv(16) + "[reorg]\nstride=4\n[route]\nlayers=1\n", 2),
    ],
)
def test_input_sides_are_multiples_of_the_coarsest_cell_on_the_way(end: str, multiple: int) -> None:
    net = network(
        input_size(64) + conv(8) + POOL + conv(8) + POOL + conv(8) + end + linear(10) + region(5, "1,1")
    )
    assert net.multiple == multiple
    height = 3 * multiple
    assert net.features(images(1, height, height)).shape[-1] == height // net.stride


def test_pooled_classifier_equals_convolution_before_pooling() -> None:
    net = network(CLASSIFIER).eval()
    features = net.features(images())
    assert features.shape == (2, 16, 16, 16)
    maps = net.layers[net.last](features)  # darknet's order: N maps, then their mean
    torch.testing.assert_close(net(images()), maps.mean((2, 3)))


def test_pool_before_the_last_convolution() -> None:
    text = BACKBONE + "[avgpool]\n" + linear(5) + "[softmax]\n"
    other = network(CLASSIFIER).eval()
    net = network(text).eval()
    assert net.features(images()).shape == (2, 16, 1, 1)
    torch.testing.assert_close(net(images()), other(images()))


def test_dropout_behind_the_classifier_acts_in_training_only() -> None:
    net = network(CLASSIFIER.replace("[softmax]", "[dropout]\nprobability=.9\n[softmax]"))
    plain = network(CLASSIFIER)
    torch.testing.assert_close(net.eval()(images()), plain.eval()(images()))
    assert (net.train()(images(8)) == 0).float().mean() > 0.5


def test_probabilities_by_tree_and_by_groups() -> None:
    net = network(CLASSIFIER)
    logits = torch.randn(4, 5) * 3
    p = net.probabilities(logits)
    torch.testing.assert_close(p[:, :3], logits[:, :3].softmax(1))
    torch.testing.assert_close(p[:, 3:], logits[:, 3:].softmax(1))
    text = CLASSIFIER.replace("filters=5", "filters=6").replace(
        "[softmax]", "[softmax]\ngroups=3\ntemperature=2"
    )
    grouped = network(text, WordTree.flat(list("abcdef"))).probabilities(torch.arange(12.0).view(2, 6))
    pair = torch.tensor([0.0, 0.5]).softmax(0)
    torch.testing.assert_close(grouped, pair.repeat(2, 3))


def test_tied_head_is_one_set_of_rows() -> None:
    net = network(TIED).eval()
    out = net(images()).unflatten(1, (2, 10))
    assert torch.equal(out[:, 0, 5:], out[:, 1, 5:])
    assert not torch.equal(out[:, 0, :5], out[:, 1, :5])
    assert sum(p.numel() for p in net.parameters()) == net.describe().parameters


def test_one_image_or_a_batch() -> None:
    net = network(PASSTHROUGH).eval()
    batch = images(3)
    singles = torch.cat([net(image[None]) for image in batch])
    torch.testing.assert_close(net(batch), singles, atol=1e-5, rtol=1e-5)


def test_starting_weights() -> None:
    torch.manual_seed(0)
    net = Network(Cfg.load("yolov2-tiny"))
    layer = net.layers[10]
    assert isinstance(layer, Convolution)
    assert layer.conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    # Activations neither vanish nor explode through the untrained network.
    assert 0.1 < net.features(images()).std().item() < 10


@pytest.mark.parametrize("text", [PASSTHROUGH, TIED, CLASSIFIER])
def test_every_parameter_gets_a_gradient(text: str) -> None:
    net = network(text).train()
    net(images()).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_channels_last_and_bfloat16() -> None:
    net = network(PASSTHROUGH).eval()
    plain = net(images())
    last = network(PASSTHROUGH).eval().to(memory_format=torch.channels_last)
    features = last.features(images().to(memory_format=torch.channels_last))
    assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last(images()), plain, atol=1e-5, rtol=1e-5)
    for mode in ("torch", "darknet"):
        net.batchnorm = mode
        plain = net(images())
        with torch.autocast("cpu", torch.bfloat16):
            half = net(images())
        assert half.dtype == torch.bfloat16
        assert (half - plain).abs().max() < 0.05 * plain.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        net.train()(images()).float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_compiles_as_one_graph() -> None:
    net = network(PASSTHROUGH).train()
    # aot_eager traces forward and backward like the default backend, without a C++ compiler.
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    out = compiled(images())
    out.square().sum().backward()
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    net(images()).square().sum().backward()
    for ours, parameter in zip(gradients, net.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", ["torch", "darknet"])
@pytest.mark.parametrize("text", [PASSTHROUGH, CLASSIFIER])
def test_fused_copy_is_exact(text: str, mode: str) -> None:
    net = network(text).double().eval()
    net.batchnorm = mode
    net.train()
    fused = net.fuse()
    assert net.training
    assert not fused.training
    assert not any(isinstance(module, DarknetBatchNorm) for module in fused.modules())
    assert any(isinstance(module, DarknetBatchNorm) for module in net.modules())
    assert fused.tree is net.tree
    assert fused.cfg is net.cfg
    x = images().double()
    torch.testing.assert_close(fused(x), net.eval()(x), atol=1e-12, rtol=1e-12)
    for parameter in fused.layers.parameters():
        parameter.data.zero_()
    assert net(x).abs().max() > 0  # nothing is shared
    if net.head is not None:
        assert fused.head is not None
        assert fused.head is not net.head
        for ours, theirs in zip(fused.head.parameters(), net.head.parameters(), strict=True):
            assert ours is theirs  # but the head's rows, as documented


def test_fused_kernels_are_channels_last() -> None:
    fused = network(PASSTHROUGH).fuse()
    for module in fused.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
    assert fused.features(images()).is_contiguous(memory_format=torch.channels_last)


def test_network_without_starting_values_draws_none() -> None:
    state = torch.get_rng_state()
    blank = Network(Cfg.parse(DETECTOR), TREE, initialise=False)
    assert torch.equal(torch.get_rng_state(), state)
    drawn = network(DETECTOR)
    assert {n: t.shape for n, t in blank.state_dict().items()} == {
        n: t.shape for n, t in drawn.state_dict().items()
    }


# --- what a cfg must and may not say


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NET + POOL, r"holds no \[convolutional\]"),
        (BACKBONE, r"line 20: \[maxpool\]: cannot follow a classifier's last convolution"),
        (
            BACKBONE + conv(20, 3, "linear", 0) + REGION,
            "line 23: .*detector's last convolution must be a plain 1 x 1",
        ),
        (
            BACKBONE + conv(20, 1, "leaky", 0) + REGION,
            "line 23: .*detector's last convolution must be a plain 1 x 1",
        ),
        (BACKBONE + conv(20, 1, "linear", 1) + REGION, "line 23: .*Set size=1, stride=1, activation=linear"),
        (BACKBONE + linear(5), r"line 23: .*expected \[region\] .* or \[avgpool\] and \[softmax\]"),
        (
            BACKBONE + linear(5) + "[softmax]\n",
            r"line 23: .*where its output is one cell, found 16 x 16",
        ),
        (DETECTOR + REGION, r"line 29: \[region\]: expected as the last layer; only one"),
        (
            BACKBONE + linear(20) + "[maxpool]\nsize=2\n" + REGION,
            r"line 29: \[maxpool\]: expected \[region\] directly after",
        ),
        (
            BACKBONE + "[avgpool]\n[route]\nlayers=-2\n" + linear(5) + "[softmax]\n",
            r"expected \[region\] .* or",
        ),
        (BACKBONE + linear(5) + POOL + "[avgpool]", r"line 29: \[maxpool\]: cannot follow"),
        (BACKBONE + linear(5) + "[softmax]\n[avgpool]\n", r"line 30: \[avgpool\]: cannot follow \[softmax\]"),
        (BACKBONE + linear(5) + CLASSIFIED * 2, r"line 31: \[avgpool\]: cannot follow \[softmax\]; only"),
        (DETECTOR.replace("filters=20", "filters=21"), "needs 20 channels"),
        (BACKBONE + "[softmax]\n" + linear(5) + CLASSIFIED, r"line 23: \[softmax\]: expected after the last"),
        (
            BACKBONE + "[cost]\n" + linear(20) + region(5, "1,1, 2,2"),
            r"line 23: \[cost\]: .* which is layer 5",
        ),
    ],
)
def test_networks_that_are_none(text: str, message: str) -> None:
    with pytest.raises(CfgError, match=message):
        Network(Cfg.parse(text))


def test_tree_must_have_the_cfgs_classes() -> None:
    with pytest.raises(CfgError, match=r"line 29: describes 5 classes, but the tree has 2 nodes"):
        Network(Cfg.parse(DETECTOR), WordTree.flat(["a", "b"]))


def test_tree_named_by_the_cfg(tmp_path: Path) -> None:
    TREE.save(tmp_path / "toy.tree")
    (tmp_path / "toy.cfg").write_text(DETECTOR + "tree=toy.tree\n")
    assert Network(Cfg.load(tmp_path / "toy.cfg")).tree.wnids == TREE.wnids  # beside the cfg
    assert Network(Cfg.parse(DETECTOR + f"tree={tmp_path}/toy.tree\n")).tree.wnids == TREE.wnids
    with pytest.raises(
        CfgError, match=rf"line 33: \[region\] tree: no such file x.tree.*for {Path.cwd()}/x.tree"
    ):
        Network(Cfg.parse(DETECTOR + "tree=x.tree\n"))
    unnamed = Network(Cfg.parse(DETECTOR + "tree=\n"))
    assert unnamed.head is not None
    assert Decoder(unnamed.head).flat


PLACES = ["cfg/own", "cfg/own/data", "cfg", "cfg/data", "", "data", "here", "here/data"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `cfg/own`, and `here`, the current one."""
    (tmp_path / "here").mkdir()
    (tmp_path / "cfg" / "own").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["toy.tree", "data/toy.tree"])
def test_trees_named_as_from_darknets_own_folder(home: Path, name: str, place: str) -> None:
    """Nearest to the cfg first, the current folder last."""
    (home / "cfg" / "own" / "toy.cfg").write_text(DETECTOR + f"tree={name}\n")
    with pytest.raises(CfgError, match=rf"no such file {name}") as caught:
        Network(Cfg.load("../cfg/own/toy.cfg"))
    assert f"{home / place / name}" in str(caught.value)
    TREE.save(home / place / name)
    assert Network(Cfg.load("../cfg/own/toy.cfg")).tree.wnids == TREE.wnids
    if not place.startswith("here"):
        WordTree.flat(list("abcde")).save(name)
        assert Network(Cfg.load("../cfg/own/toy.cfg")).tree.wnids == TREE.wnids


@pytest.mark.parametrize("place", PLACES)
def test_names_are_looked_for_where_trees_are(home: Path, place: str) -> None:
    (home / "cfg" / "own" / "toy.cfg").write_text(DETECTOR)
    (home / place).mkdir(exist_ok=True)
    (home / place / "toy.names").write_text("a\nb\nc\nd\ne\n")
    assert Network(Cfg.load("../cfg/own/toy.cfg")).tree.names == ("a", "b", "c", "d", "e")


def test_a_builtin_cfg_takes_nothing_of_the_current_folder(home: Path) -> None:
    (home / "here" / "yolov2-voc.names").write_text("a\n")
    WordTree.flat(["a"]).save("9k.tree")
    assert Network(Cfg.load("yolov2-voc"), initialise=False).tree.names[:2] == ("aeroplane", "bicycle")
    assert len(Network(Cfg.load("yolo9000"), initialise=False).tree) == 9418


@pytest.mark.parametrize(("classes", "theirs"), [(3, ""), (20, "yolov2-voc"), (80, "yolov2"), (1000, "tiny")])
def test_names_that_are_guessed_are_told(home: Path, classes: int, theirs: str) -> None:
    """By their number, where a cfg has no names; darknet's own cfgs mean those that they get."""
    text = DETECTOR.replace("filters=20", f"filters={2 * (5 + classes)}")
    names = ["own", theirs] if theirs else ["own"]
    for name in names:
        (home / f"{name}.cfg").write_text(text.replace("classes=5", f"classes={classes}"))
    message = rf"own\.cfg: does not name its {classes:,} classes; .*, write their names into .*own\.names,"
    with pytest.warns(CfgWarning, match=message):
        guessed = Network(Cfg.load(home / "own.cfg")).tree
    WordTree.flat(guessed.names).save(home / "own.tree")  # with own.names
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in names:
            assert Network(Cfg.load(home / f"{name}.cfg")).tree == guessed


@pytest.mark.filterwarnings("ignore:the cfg. does not name")
def test_trees_known_without_a_file() -> None:
    text = DETECTOR.replace("filters=20", "filters={}").replace("classes=5", "classes={}")
    assert Network(Cfg.parse(text.format(50, 20))).tree.names[:2] == ("aeroplane", "bicycle")
    assert Network(Cfg.parse(text.format(170, 80))).tree.names[:2] == ("person", "bicycle")
    assert Network(Cfg.parse(text.format(16, 3))).tree.names == ("class 0", "class 1", "class 2")
    whole = Network(Cfg.parse(text.format(2 * 9423, 9418) + "tree=/nowhere/9k.tree\n")).tree
    assert (len(whole), whole.wnids[2], whole.max_depth) == (9418, "n00002684", 16)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 64, 64), r"expected images \[B, 3, H, W\], got \[3, 64, 64\]"),
        (torch.zeros(1, 1, 64, 64), r"got \[1, 1, 64, 64\]"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "floating-point images in 0..1, got torch.uint8"),
    ],
)
def test_wrong_images(x: Tensor, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        network(CLASSIFIER)(x)


def test_batchnorm_switch() -> None:
    net = network(PASSTHROUGH).eval()
    before = net(images())
    assert net.batchnorm == "torch"
    net.batchnorm = "darknet"
    assert {m.mode for m in net.modules() if isinstance(m, DarknetBatchNorm)} == {"darknet"}
    assert not torch.equal(net(images()), before)
    with pytest.raises(ValueError, match="'torch' or 'darknet', not 'other'"):
        net.batchnorm = "other"


# --- the table of layers


def test_describe_published_networks() -> None:
    """Total operations that the paper (Darknet-19 at 224) and darknet's listing (YOLOv2 at 608) give."""
    net = Network(Cfg.load("darknet19"))
    assert net.describe(224, 224).bflops == pytest.approx(5.58, abs=0.005)
    assert net.describe().parameters == sum(p.numel() for p in net.parameters()) == 20_842_376
    yolov2 = Network(Cfg.load("yolov2")).describe()
    assert yolov2.bflops == pytest.approx(62.94, abs=0.005)
    lines = str(yolov2).splitlines()
    first = "0 convolutional 32 3 x 3 / 1 608 x 608 x 3 -> 608 x 608 x 32 928 0.639"
    assert " ".join(lines[1].split()) == first
    assert " ".join(lines[28].split()) == "27 reorg / 2 38 x 38 x 64 -> 19 x 19 x 256"
    assert " ".join(lines[29].split()) == "28 route 27 24 19 x 19 x 256 -> 19 x 19 x 1280"
    assert " ".join(lines[-1].split()) == "total 50,962,889 62.938"


def test_describe_layers_that_grow_and_add() -> None:
    text = input_size(8) + conv(8) + "[upsample]\nstride=3\n[shortcut]\nfrom=1\n"
    sizes = [row.size for row in describe(plan_layers(Cfg.parse(text))).rows]
    assert sizes == ["3 x 3 / 1", "3x", "1"]


# --- copying from another network


def same(a: Network, b: Network, layers: range) -> bool:
    pairs = ((a.layers[i].state_dict(), b.layers[i].state_dict()) for i in layers)
    return all(torch.equal(x[key], y[key]) for x, y in pairs for key in x)


@pytest.mark.parametrize("text", [DETECTOR, TIED])
def test_classifier_to_detector(text: str) -> None:
    source, target = network(CLASSIFIER, seed=1), network(text, seed=2)
    source.batchnorm = "darknet"
    assert target.head is not None
    boxes = target.head.box_weight.clone()
    report = target.load_backbone(source)
    assert same(source, target, range(4))
    last = source.layers[4]
    assert isinstance(last, Convolution)
    for rows in target.head.class_weight:
        assert torch.equal(rows, last.conv.weight[:, :, 0, 0])
    assert torch.equal(target.head.box_weight, boxes)
    assert (report.layers, report.of, report.classes, report.boxes) == (4, 4, True, False)
    assert "copied 4 of 4 layers" in str(report)
    assert str(report).endswith("class rows; a classifier has no box rows")
    assert target.batchnorm == "darknet"
    # The source's opinion of a whole image is now the detector's.
    torch.testing.assert_close(
        target.eval().class_logits(target.features(images())), source.eval()(images()), atol=1e-5, rtol=1e-4
    )


def test_detector_to_detector_and_classifier() -> None:
    source, target, classifier = (
        network(DETECTOR, seed=1),
        network(DETECTOR, seed=2),
        network(CLASSIFIER, seed=3),
    )
    report = target.load_backbone(source)
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in target.state_dict().items())
    assert (report.boxes, report.reason) == (True, "")
    assert report.parameters == sum(tensor.numel() for name, tensor in source.state_dict().items())
    other = network(DETECTOR.replace("3,4", "5,4"), seed=4)
    assert other.head is not None
    boxes = other.head.box_weight.clone()
    assert other.load_backbone(source).reason == "the anchors differ"
    assert torch.equal(other.head.box_weight, boxes)
    classifier.load_backbone(source)
    x = images()
    torch.testing.assert_close(
        classifier.eval()(x), source.eval().class_logits(source.features(x)), atol=1e-5, rtol=1e-4
    )


def test_a_plain_detector_gives_boxes_to_one_over_a_tree() -> None:
    source, target = network(DETECTOR, WordTree.flat(list("vwxyz")), seed=1), network(DETECTOR, seed=2)
    assert source.head is not None
    assert target.head is not None
    classes = target.head.class_weight.clone()
    report = target.load_backbone(source)
    assert torch.equal(target.head.box_weight, source.head.box_weight)
    assert torch.equal(target.head.box_bias, source.head.box_bias)
    assert torch.equal(target.head.class_weight, classes)
    assert str(report).endswith("box rows; the trees differ (5 nodes here, 5 there)")


def test_backbone_stops_at_the_first_difference() -> None:
    target = network(PASSTHROUGH, seed=2)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    report = target.load_backbone(network(CLASSIFIER, seed=1))
    assert (report.layers, report.of, report.classes) == (4, 9, False)
    assert "the other network has only 4 layers before its last convolution" in str(report)
    assert torch.equal(target.layers[4].state_dict()["conv.weight"], before["layers.4.conv.weight"])
    wider = network(CLASSIFIER.replace("filters=16", "filters=24"), seed=1)
    report = target.load_backbone(wider)
    assert report.layers == 2
    assert "layer 2 is a 3 x 3 / 1 convolution 8 -> 16, leaky, batch norm here" in report.reason
    assert "8 -> 24" in report.reason
    assert (
        network(CLASSIFIER).load_backbone(network(PASSTHROUGH)).reason
        == "the other network has 5 more layers"
    )
    grown = input_size(64) + conv(8, stride=2) + "[upsample]\n{}" + linear(10) + region(5, "1,1")
    report = network(grown.format("")).load_backbone(network(grown.format("scale=.5\n")))
    assert (report.layers, report.classes) == (1, False)
    assert report.reason == (
        "layer 1 is [upsample], 8 -> 8 channels here, [upsample] scale=.5, 8 -> 8 channels there"
    )


def test_backbone_of_a_classifier_whose_last_convolution_is_not_linear() -> None:
    text = BACKBONE + conv(5) + CLASSIFIED
    source = network(text, seed=1).eval()
    report = network(DETECTOR).load_backbone(source)
    assert (report.layers, report.classes) == (4, False)
    assert report.reason.startswith("layer 4 is a 1 x 1 / 1 convolution 16 -> 20, linear here, a 3 x 3 / 1")
    target = network(text, seed=2).eval()
    assert target.load_backbone(source).classes
    assert torch.equal(target(images()), source(images()))


def test_backbone_with_another_tree_or_fused() -> None:
    flat = network(CLASSIFIER, WordTree.flat(list("vwxyz")))
    report = network(DETECTOR).load_backbone(flat)
    assert (report.layers, report.classes) == (4, False)
    assert report.reason == "the trees differ (5 nodes here, 5 there); a classifier has no box rows"
    report = network(DETECTOR).load_backbone(network(CLASSIFIER).fuse())
    assert (report.layers, report.reason) == (0, "layer 0 is fused in one of the networks")
