"""The network as it runs: precision and compilation change nothing but rounding and time."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor

from toys import POOL, conv, input_size, linear, region
from wordtree.tree import WordTree
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.layers import DarknetBatchNorm
from yolo9000.decode import Decoder, RawDetections
from yolo9000.engine import Bucketed, Engine, compiled
from yolo9000.errors import ConfigError
from yolo9000.letterbox import Letterbox
from yolo9000.model import YOLO9000
from yolo9000.network import Network

TRUNK = input_size(64) + conv(32) + POOL + linear(3)
REGION = region(120, "1,1, 2,2, 4,4")
# Ten top nodes, ten children each, the first of which have children again.
TREE = WordTree([node // 10 - 1 for node in range(120)], [f"n{node}" for node in range(120)])
gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def detector(tied: bool = False) -> Network:
    torch.manual_seed(0)
    cfg = TRUNK + linear(135 if tied else 375) + REGION + f"tied={int(tied)}\n"
    network = Network(Cfg.parse(cfg), TREE).eval()
    for module in network.modules():
        if isinstance(module, DarknetBatchNorm):
            module.running_var.uniform_(0.5, 2)
    assert network.head is not None
    for weight in (network.head.class_weight, network.head.box_weight):
        torch.nn.init.normal_(weight)
    return network


def images(batch: int = 2, device: str = "cpu") -> Tensor:
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(device)


def assert_same(found: list[RawDetections], expected: list[RawDetections], atol: float = 1e-5) -> None:
    """The same but for rounding, which may exchange candidates of nearly the same objectness."""
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs)
        place = torch.cdist(ours.boxes.cpu(), theirs.boxes.cpu()).argmin(1)
        assert place.sort().values.tolist() == list(range(len(theirs)))
        assert torch.equal(ours.paths.cpu(), theirs.paths.cpu()[place])
        for name in ("boxes", "objectness", "scores", "path_probs"):
            one, other = getattr(ours, name).cpu(), getattr(theirs, name).cpu()[place]
            torch.testing.assert_close(one, other, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("tied", [False, True])
def test_fixed_walk_is_the_walk(tied: bool) -> None:
    head = detector(tied).head
    assert head is not None
    features = torch.randn(2, 3, 8, 8)
    expected = Decoder(head).decode(features, 0.01)
    assert sum(map(len, expected)) > 20
    assert_same(Decoder(head, walk=head.descend_fixed).decode(features, 0.01), expected)
    assert_same(Decoder(head, walk=Bucketed(head.descend_fixed)).decode(features, 0.01), expected)


def test_nobody_is_found_in_a_bucket() -> None:
    head = detector().head
    assert head is not None
    (none,) = Decoder(head, walk=Bucketed(head.descend_fixed)).decode(torch.zeros(1, 3, 8, 8), 0.9)
    assert len(none) == 0


def test_the_number_of_anchors_makes_few_shapes() -> None:
    seen = set()
    head = detector().head
    assert head is not None

    def walk(vectors: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        seen.add(len(vectors))
        return head.descend_fixed(vectors, anchor)

    bucketed = Bucketed(walk)
    vectors, anchor = torch.randn(200, 3), torch.arange(200) % 3
    whole = head.descend_fixed(vectors, anchor)
    for count in range(201):
        paths, steps = bucketed(vectors[:count], anchor[:count])
        assert torch.equal(paths, whole[0][:count])
        torch.testing.assert_close(steps, whole[1][:count])
    assert seen == {16, 32, 64, 128, 256}


def test_compiled_code_is_not_compiled_again_for_other_photos() -> None:
    torch._dynamo.reset()
    head = detector().head
    assert head is not None
    walk = Bucketed(compiled(head.descend_fixed, graphs=False, backend="eager"))
    vectors, anchor = torch.randn(30, 3), torch.arange(30) % 3
    for count in (3, 20):  # the buckets of 16 and 32
        walk(vectors[:count], anchor[:count])
    with torch.compiler.set_stance("fail_on_recompile"):
        for count in range(31):
            paths, _ = walk(vectors[:count], anchor[:count])
            assert torch.equal(paths, head.descend_fixed(vectors, anchor)[0][:count])
    torch._dynamo.reset()


def test_more_shapes_than_torch_allows_by_itself() -> None:
    torch._dynamo.reset()
    double = compiled(lambda x: x * 2, graphs=False, backend="eager")
    for size in range(2, 15):
        assert torch.equal(double(torch.ones(size)), torch.full((size,), 2.0))
    torch._dynamo.reset()


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_lower_precision_is_close_and_leaves_the_network_alone(precision: str) -> None:
    network = detector()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    engine = Engine(network, precision)  # type: ignore[arg-type]
    features = engine.features(images())
    assert features.dtype == torch.float32
    expected = Engine(network).features(images())
    torch.testing.assert_close(features, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))
    assert {p.dtype for p in engine.network.layers.parameters()} == {engine.dtype}
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])
    found = YOLO9000(network, device="cpu", precision=precision).detect(images()[0])  # type: ignore[arg-type]
    assert found.boxes.dtype == "float32"


def test_features_are_copies() -> None:
    engine = Engine(detector())
    one = engine.features(images())
    kept = one.clone()
    engine.features(1 - images())
    assert torch.equal(one, kept)


def test_unknown_precision() -> None:
    with pytest.raises(ConfigError, match="one of fp32, bf16, fp16, int8; got 'int4'"):
        Engine(detector(), "int4")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_network_in_another_format_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ConfigError, match=f"torch.float32, found {dtype}: call its float"):
        Engine(detector().to(dtype))


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: apt-get install g++"
)
def test_compiled_on_cpu() -> None:
    network = detector()
    plain, fast = Engine(network), Engine(network, compile=True)
    assert_same(
        fast.candidates(fast.features(images()), 0.3), plain.candidates(plain.features(images()), 0.3), 1e-4
    )


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("precision", [pytest.param(p, marks=gpu) for p in ("fp32", "bf16", "fp16")])
def test_gpu_finds_what_the_cpu_finds(precision: str, compile: bool) -> None:
    network = detector()
    expected = Engine(network)
    features = expected.features(images())
    engine = Engine(network.cuda(), precision, compile=compile)  # type: ignore[arg-type]
    for _ in range(4):  # CUDA graphs are recorded in the second run and replayed from the third on
        found = engine.features(images(device="cuda"))
        tolerance = 1e-3 if precision == "fp32" else 0.05 * float(features.abs().max())
        torch.testing.assert_close(found.cpu(), features, rtol=0.05, atol=tolerance)
        assert_same(engine.candidates(features.cuda(), 0.3), Engine(detector()).candidates(features, 0.3))
    views, fits = [features, features.flip(0)], [[Letterbox.fit((64, 64), (64, 64))] * len(features)] * 2
    fused = engine.fused([view.cuda() for view in views], fits, 0.3)
    assert_same(fused, Engine(detector()).fused(views, fits, 0.3))


@pytest.mark.parametrize("batch", [pytest.param(b, marks=gpu) for b in (1, 3)])
def test_gpu_replays_without_compiling_again(batch: int) -> None:
    torch._dynamo.reset()
    model = YOLO9000(detector(), device="cuda", compile=True)
    features = model.engine.features(images(batch, "cuda"))
    for threshold in (0.999999, 0.7, 0.3, 0.0):
        model.engine.candidates(features, threshold)
    with torch.compiler.set_stance("fail_on_recompile"):
        for shift in range(5):
            features = model.engine.features(images(batch, "cuda").roll(shift, 3))
            model.engine.candidates(features, 0.3)
