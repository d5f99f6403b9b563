"""Several views of a picture as one, against plain loops; and the sizes that `detect` and `evaluate` take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_decode import ANCHORS, TOY, make_head
from test_model import bright_finder, spot
from torch import Tensor

from wordtree.tree import WordTree
from yolo9000 import YOLO9000
from yolo9000.checkpoint import save_model
from yolo9000.darknet.cfg import RegionConfig
from yolo9000.decode import Decoder
from yolo9000.errors import ConfigError
from yolo9000.fusion import FUSION_IOU, cluster
from yolo9000.head import RegionHead
from yolo9000.letterbox import Letterbox
from yolo9000.sources import Frame


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    return shared / (float(np.prod(one[2:] - one[:2])) + float(np.prod(other[2:] - other[:2])) - shared)


def slow_clusters(boxes: np.ndarray, objectness: np.ndarray) -> list[list[int]]:
    """Members of each, the leader first; in the order of the leaders."""
    rest, found = [*np.argsort(-objectness, kind="stable")], []
    while rest:
        members = [i for i in rest if i == rest[0] or overlap(boxes[rest[0]], boxes[i]) > FUSION_IOU]
        found.append(members)
        rest = [i for i in rest if i not in members]
    return found


@pytest.mark.parametrize("seed", range(20))
def test_clusters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, views, threshold = int(rng.integers(1, 60)), int(rng.integers(1, 5)), 0.2
    corner, side = rng.uniform(0, 60, (count, 2)), rng.uniform(20, 50, (count, 2))
    boxes, objectness = np.hstack([corner, corner + side]), rng.uniform(0, 1, count)
    view = rng.integers(0, views, count)
    found = cluster(
        torch.from_numpy(boxes), torch.from_numpy(objectness), torch.from_numpy(view), views, threshold
    )
    expected = []
    for members in slow_clusters(boxes, objectness):
        best = [max((objectness[i] for i in members if view[i] == v), default=0.0) for v in range(views)]
        weight = objectness[members] / objectness[members].sum()
        expected.append((sum(best) / views, weight @ boxes[members], members))
    expected = sorted((one for one in expected if one[0] > threshold), key=lambda one: -one[0])
    assert found.objectness.tolist() == pytest.approx([one[0] for one in expected])
    assert found.boxes.numpy() == pytest.approx(np.array([one[1] for one in expected]).reshape(-1, 4))
    for number, (_, _, members) in enumerate(expected):
        assert (found.member == number).nonzero()[:, 0].tolist() == sorted(members)
        assert float(found.share[found.member == number].sum()) == pytest.approx(1)


def test_clusters_of_nothing_and_of_no_area() -> None:
    none = torch.zeros(0)
    found = cluster(none.view(0, 4), none, none.long(), 3, 0.1)
    assert (len(found.member), len(found.boxes), len(found.objectness)) == (0, 0, 0)
    flat = torch.tensor([[5.0, 5, 5, 9], [5, 5, 5, 9]])
    found = cluster(flat, torch.tensor([0.5, 0.9]), torch.tensor([0, 1]), 2, 0.1)
    assert found.objectness.tolist() == pytest.approx([0.45, 0.25])  # they overlap nothing, each by itself
    assert found.member.tolist() == [1, 0]


@pytest.mark.parametrize("mode", ["torch", "darknet"])
@pytest.mark.parametrize("image_size", [(50, 200), (333, 77), (64, 64)])
def test_letterbox_maps_back(image_size: tuple[int, int], mode: str) -> None:
    fit = Letterbox.fit(image_size, (96, 160), mode)  # type: ignore[arg-type]
    boxes = torch.rand(20, 4, dtype=torch.float64)
    torch.testing.assert_close(fit.map(fit.unmap(boxes, clip=False)), boxes)


def slow_views(
    head: RegionHead, views: list[Tensor], fits: list[Letterbox], threshold: float
) -> list[tuple[np.ndarray, float, np.ndarray]]:
    """Box in pixels, objectness and class logits of each cluster of one image; views [D, H, W]."""
    boxes, objectness, logits, view = [], [], [], []
    for number, (features, fit) in enumerate(zip(views, fits, strict=True)):
        dense = head.dense(features[None])[0].detach().double()
        height, width = dense.shape[-2:]
        for a, y, x in np.ndindex(len(ANCHORS), height, width):
            values = dense[a, :, y, x]
            sure = float(values[4].sigmoid())
            if sure > threshold / 4:
                centre = [(float(values[0].sigmoid()) + x) / width, (float(values[1].sigmoid()) + y) / height]
                sides = [ANCHORS[a][0] * float(values[2].exp()) / width]
                sides += [ANCHORS[a][1] * float(values[3].exp()) / height]
                box = torch.tensor([[*centre, *sides]], dtype=torch.float64)
                boxes.append(fit.unmap(box, clip=False)[0].numpy())
                objectness.append(sure)
                logits.append(values[5:].numpy())
                view.append(number)
    found = []
    for members in slow_clusters(np.array(boxes).reshape(-1, 4), np.array(objectness)):
        best = [max((objectness[i] for i in members if view[i] == v), default=0) for v in range(len(views))]
        mean = sum(best) / len(views)
        weight = np.array([objectness[i] for i in members])
        weight /= weight.sum()
        if mean > threshold:
            parts = [np.array([values[i] for i in members]) for values in (boxes, logits)]
            found.append((weight @ parts[0], mean, weight @ parts[1]))
    return sorted(found, key=lambda one: -one[1])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["tree", "tied", "flat", "sigmoids"])
def test_views_are_decoded_as_one(seed: int, kind: str) -> None:
    torch.manual_seed(seed)
    tree = WordTree.flat([f"n{i}" for i in range(6)]) if kind in ("flat", "sigmoids") else TOY
    softmax = kind != "sigmoids"
    head = make_head(tree, tied=kind == "tied", softmax=softmax, scale=0.5)
    sizes, images = [(96, 96), (64, 96), (160, 128)], [(50, 70), (90, 30)]
    fits = [[Letterbox.fit(image, size) for image in images] for size in sizes]
    features = [torch.randn(2, 6, size[0] // 32, size[1] // 32) for size in sizes]
    threshold = 0.15
    found = Decoder(head).decode_views(features, fits, threshold, hier_threshold=0.4)
    for image in range(2):
        views, places = [view[image] for view in features], [fit[image] for fit in fits]
        slow = slow_views(head, views, places, threshold)
        assert len(slow) > 2
        raw = found[image]
        rows = np.array([logits for _, _, logits in slow])
        conditional = torch.from_numpy(rows)
        conditional = head.ops.log_softmax(conditional) if softmax else conditional.sigmoid().log()
        probs = head.ops.path_log_probs(conditional).exp().numpy()
        expected = {}
        for number, (box, objectness, _) in enumerate(slow):
            for node in range(len(tree)):
                expected[number, node] = (objectness * probs[number, node], box, objectness)
        if kind in ("flat", "sigmoids"):
            wanted = sorted(score for score, _, _ in expected.values() if score > threshold)
            assert sorted(raw.scores.tolist()) == pytest.approx(wanted, rel=1e-4)
            continue
        kept = iter(range(len(raw)))
        for number, (box, objectness, _) in enumerate(slow):
            label, score, path = 0, 0.0, head.ops.descend(torch.from_numpy(rows[number : number + 1]))[0][0]
            for level, node in enumerate(path[path >= 0].tolist()):
                if level == 0 or probs[number, node] > 0.4:
                    label, score = node, objectness * probs[number, node]
            if score > threshold:
                at = next(kept)
                assert int(raw.nodes[at]) == label
                assert float(raw.scores[at]) == pytest.approx(score, rel=1e-4)
                assert float(raw.objectness[at]) == pytest.approx(objectness, rel=1e-4)
                pixels = places[0].unmap(raw.boxes[at : at + 1], clip=False)[0]
                assert pixels.tolist() == pytest.approx(box.tolist(), rel=1e-3, abs=1e-2)
        assert next(kept, None) is None


def test_one_view_is_what_decode_gives() -> None:
    torch.manual_seed(0)
    head, features = make_head(TOY), torch.randn(2, 6, 3, 4)
    fits = [[Letterbox.fit((50, 70), (96, 128))] * 2]
    for one, other in zip(
        Decoder(head).decode_views([features], fits, 0.1), Decoder(head).decode(features, 0.1), strict=True
    ):
        for name in ("boxes", "scores", "paths"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_a_higher_threshold_changes_no_box_and_no_score() -> None:
    torch.manual_seed(0)
    head = make_head(TOY)
    with torch.no_grad():
        head.box_weight[:, :4] = 0  # the views agree on the boxes, and not on how sure they are
    fits = [[Letterbox.fit((50, 70), (96, 96))]] * 3
    features = [2 * torch.randn(1, 6, 3, 3) for _ in fits]
    (low,), (high,) = (Decoder(head, "darknet").decode_views(features, fits, t) for t in (0.2, 0.5))
    still = low.scores > 0.5
    assert 2 < len(high) < len(low)
    torch.testing.assert_close(high.scores, low.scores[still])
    torch.testing.assert_close(high.boxes, low.boxes[still])
    torch.testing.assert_close(high.path_probs, low.path_probs[still])


def test_many_candidates_are_limited_over_all_views() -> None:
    torch.manual_seed(0)
    region = RegionConfig(anchors=ANCHORS, classes=6, num=2, softmax=True)
    head = RegionHead(6, region, TOY)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.01)
    fits = [[Letterbox.fit((500, 500), (512, 512))]] * 2
    features = [torch.randn(1, 6, 16, 16) for _ in fits]
    (few,) = Decoder(head, max_candidates=10).decode_views(features, fits, 0.0)
    (many,) = Decoder(head).decode_views(features, fits, 0.0)
    assert len(few) <= 10 < len(many)


@pytest.fixture
def model() -> YOLO9000:
    return YOLO9000(bright_finder(), device="cpu")


def test_sizes_find_one_object_once(model: YOLO9000) -> None:
    image = spot(64, 96, 32, 64, 32)
    own = model.detect(image)
    for sizes in ([(64, 96)] * 2, ((64, 96),) * 3):
        found = model.detect(image, sizes=sizes)
        assert found[0].box == pytest.approx(own[0].box)
        assert (found.labels, found.scores) == (["pug"], pytest.approx(own.scores))
    # In one cell of 32 x 32 the whole picture is bright: each size finds something that the other does not.
    found = model.detect(image, sizes=[(64, 96), (32, 32)], threshold=0.3)
    assert sorted(one.box for one in found) == [pytest.approx((0, 0, 96, 64), abs=17), own[0].box]
    assert found.scores == pytest.approx([own[0].score / 2] * 2, rel=0.01)
    one = model.detect(image, sizes=[96])
    assert one.to_dict() == model.detect(image, size=96).to_dict()
    batch = [*model.detect([image, image.flip(-1), image], sizes=np.array([64, 96]))]
    assert batch[0].to_dict() == batch[2].to_dict() == model.detect(image, sizes=[64, 96]).to_dict()


def test_sizes_that_are_refused(model: YOLO9000) -> None:
    image = spot(64, 96, 0, 0, 32)
    with pytest.raises(ConfigError, match=r"expected size or sizes, found both \(96 and 2 sizes\)"):
        model.detect(image, size=96, sizes=[64, 96])
    with pytest.raises(ConfigError, match=r"several sizes such as \[320, 448\], found 96"):
        model.detect(image, sizes=96)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"several sizes such as \[320, 448\], found 96\.5"):
        model.detect(image, sizes=96.5)  # type: ignore[arg-type]
    assert model.detect(image, sizes=None).to_dict() == model.detect(image).to_dict()
    with pytest.raises(ConfigError, match="multiple of 32 from 32 to 4096 pixels, found 100"):
        model.detect(image, sizes=[64, 100])


def test_a_models_own_sizes(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(bright_finder(), path, metadata={"sizes": "64 96"})
    model = YOLO9000.load(path)
    assert model.sizes == [(64, 64), (96, 96)]
    image = spot(64, 96, 32, 64, 32)
    both = model.detect(image, sizes=[64, 96]).to_dict()
    assert model.detect(image).to_dict() == both
    assert model.detect(image, size=64).to_dict() != both
    # The frames of a video are looked at in the cfg's size alone, also beside pictures.
    frame = Frame(image, "a.mp4", number=0, time=0.0)
    photo, of_video = model.detect([Frame(image), frame])
    assert photo.to_dict() == both
    assert of_video[0].box == model.detect(image, size=(64, 96))[0].box
    assert model.detect(frame, sizes=[64, 96])[0].box == photo[0].box
    for nonsense in ("", "no", "64,96", "-64"):
        model.metadata["sizes"] = nonsense
        assert model.sizes == [(64, 96)]
    model.metadata["sizes"] = "100"
    with pytest.raises(ConfigError, match="found 100; the nearest is 96"):
        model.detect(image)
