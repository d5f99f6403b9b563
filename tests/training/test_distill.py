"""Learning from trained networks: what is to be reached, how, and which teachers are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from toys import BREEDS, CLASSIFIED, PETS, POOL, colour_finder, conv, input_size, linear, region
from wordtree.tree import WordTree
from yolo9000.checkpoint import save_model
from yolo9000.config import LossConfig, TrainConfig
from yolo9000.darknet.cfg import Cfg
from yolo9000.distill import _MOST, Imitation, Lesson, Teachers, tree_divergence
from yolo9000.errors import ConfigError, WeightsError
from yolo9000.loss import JointLoss
from yolo9000.network import Network
from yolo9000.pictures import read_log
from yolo9000.train import train_classifier, train_joint
from yolo9000.tree_ops import TreeOps

Settings = Callable[..., TrainConfig]
OPS = TreeOps(BREEDS)


def leaves(tree: WordTree, logits: Tensor) -> Tensor:
    """[K, leaves] probabilities, multiplied along each path one by one."""
    ends = [node for node in range(len(tree)) if node not in set(tree.parent.tolist())]
    result = torch.ones(len(logits), len(ends), dtype=torch.float64)
    for column, leaf in enumerate(ends):
        node = leaf
        while node >= 0:
            siblings = [other for other in range(len(tree)) if tree.parent[other] == tree.parent[node]]
            result[:, column] *= logits[:, siblings].double().softmax(1)[:, siblings.index(node)]
            node = int(tree.parent[node])
    return result


def save(network: Network, path: Path) -> str:
    save_model(network, path)
    return str(path)


def student_of(network: Network) -> Network:
    torch.manual_seed(0)
    return Network(network.cfg, network.tree)


def imitation(student: Network, *models: str) -> Imitation:
    assert student.head is not None
    assert student.region is not None
    return Imitation(Teachers(models, student), JointLoss(student.head, student.region, LossConfig()))


def coloured(images: int) -> Tensor:
    """Pictures [B, 3, 128, 128] in which a fifth of the 4 x 4 cells are red, green or blue."""
    lit = torch.rand(images, 1, 4, 4) < 0.2
    colour = torch.nn.functional.one_hot(torch.randint(3, (images, 4, 4)), 3).movedim(-1, 1)
    return (lit * colour).float().repeat_interleave(32, 2).repeat_interleave(32, 3)


@pytest.fixture
def finder() -> Network:
    return colour_finder(BREEDS, ("husky", "tabby", "bus"))


def test_divergence_is_that_of_the_leaves() -> None:
    torch.manual_seed(0)
    said, own = 3 * torch.randn(2, 6, len(BREEDS))
    p, q = leaves(BREEDS, said), leaves(BREEDS, own)
    found = tree_divergence(OPS, OPS.path_log_probs(OPS.log_softmax(said)), own)
    torch.testing.assert_close(found.double(), (p * (p / q).log()).sum(1), rtol=1e-5, atol=1e-5)


def test_two_teachers_say_the_mean_of_what_each_says(tmp_path: Path) -> None:
    finders = [colour_finder(BREEDS, names) for names in (("husky", "tabby", "bus"), ("pug", "cat", "car"))]
    models = [save(network, tmp_path / f"{index}.safetensors") for index, network in enumerate(finders)]
    torch.manual_seed(0)
    images, student = coloured(3), student_of(finders[0])
    lesson = Teachers(models, student).lesson(images)
    each = [Teachers([model], student).lesson(images) for model in models]
    assert len(lesson.b) == len(each[0].b) > 0
    torch.testing.assert_close(lesson.paths.exp(), (each[0].paths.exp() + each[1].paths.exp()) / 2)
    torch.testing.assert_close(lesson.boxes, (each[0].boxes + each[1].boxes) / 2)
    classes = Teachers(models, student).classes(images).exp()
    whole = [network.ops.log_softmax(network.class_logits(network.features(images))) for network in finders]
    mean = torch.stack([OPS.path_log_probs(own).exp() for own in whole]).mean(0)
    torch.testing.assert_close(classes, mean)


def test_a_lesson_is_about_the_anchors_that_show_something(finder: Network, tmp_path: Path) -> None:
    teachers = Teachers([save(finder, tmp_path / "t.safetensors")], finder)
    images = torch.zeros(2, 3, 128, 128)
    images[1, 2, 32:64, 96:] = 1.0  # blue: a bus in row 1, column 3
    lesson = teachers.lesson(images)
    assert [t.tolist() for t in (lesson.b, lesson.a, lesson.y, lesson.x)] == [[1], [0], [1], [3]]
    assert float(lesson.paths[0, BREEDS.names.index("bus")].exp()) > 0.9
    full = teachers.lesson(torch.ones(1, 3, 128, 128))
    assert len(full.b) == min(_MOST, 16)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_student_of_finer_cells_is_told_the_same_boxes(
    factor: int, finder: Network, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in finder.head.parameters():  # type: ignore[union-attr]
            parameter.add_(0.5 * torch.randn_like(parameter))
    cells = f"[upsample]\nstride={factor}\n"
    own = region(len(BREEDS), f"{factor},{factor}", softmax=1)
    student = Network(Cfg.parse(input_size(128) + POOL * 5 + cells + linear(5 + len(BREEDS)) + own), BREEDS)
    model, images = save(finder, tmp_path / "t.safetensors"), coloured(3)
    coarse, fine = (Teachers([model], network).lesson(images) for network in (finder, student))
    assert fine.boxes.shape == (3, 1, 5, 4 * factor, 4 * factor)

    def found(lesson: Lesson) -> dict[tuple[int, int, int], Tensor]:
        """Centre, sides (pixels), objectness, path of the surest, by picture, row and column of 32 pixels."""
        pixels = 128 // lesson.boxes.shape[-1]
        own = lesson.boxes[lesson.b, lesson.a, :, lesson.y, lesson.x]
        corner = pixels * torch.stack((lesson.x, lesson.y), 1)
        rows = torch.cat((corner + pixels * own[:, :2], 32 * own[:, 2:4].exp(), own[:, 4:], lesson.paths), 1)
        places = zip(lesson.b.tolist(), (corner // 32).tolist(), strict=True)
        return {(b, y, x): row for (b, (x, y)), row in zip(places, rows, strict=True)}

    expected, told = found(coarse), found(fine)
    assert expected.keys() == told.keys()
    assert len(expected) == len(fine.b) > 10
    for place, row in expected.items():
        torch.testing.assert_close(told[place], row)
    # Each is in one cell of the finer grid.
    torch.testing.assert_close(fine.boxes[:, :, 4].sum((2, 3)), coarse.boxes[:, :, 4].sum((2, 3)))


def test_who_says_the_same_has_nothing_to_learn(finder: Network, tmp_path: Path) -> None:
    student = finder.eval()
    own = imitation(student, save(finder, tmp_path / "t.safetensors"))
    images = coloured(4)
    terms = own(images, student.features(images))
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert student.head is not None
    gradients = [parameter.grad for parameter in student.head.parameters()]
    assert all(gradient is not None and gradient.abs().max() < 1e-5 for gradient in gradients)
    assert terms["teacher_class"].item() == pytest.approx(0, abs=1e-6)


def test_a_student_learns_to_find_and_to_name_without_any_label(finder: Network, tmp_path: Path) -> None:
    student = student_of(finder)
    own = imitation(student, save(finder, tmp_path / "t.safetensors"))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.2)
    torch.manual_seed(1)
    for _ in range(150):
        images = coloured(8)
        terms = own(images, student.features(images))
        optimizer.zero_grad()
        sum(own.weights[name] * term for name, term in terms.items()).backward()  # type: ignore[union-attr]
        optimizer.step()
    images = coloured(16)
    said, learnt = (
        Teachers([save(n, tmp_path / "n.safetensors")], finder).lesson(images) for n in (finder, student)
    )
    torch.testing.assert_close(learnt.boxes[:, :, 4], said.boxes[:, :, 4], atol=0.1, rtol=0)
    assert bool((said.boxes[:, :, 4] > 0.5).any())
    at = said.b, said.a, said.y, said.x
    assert student.head is not None
    paths = OPS.descend(student.head.class_logits(student.features(images), *at))[0]
    expected = OPS.descend(finder.head.class_logits(finder.features(images), *at))[0]  # type: ignore[union-attr]
    assert (paths == expected).all(1).float().mean() > 0.9
    assert len(paths) > 10


def test_teachers_stay_as_they_are(finder: Network, tmp_path: Path) -> None:
    teachers = Teachers([save(finder, tmp_path / "t.safetensors")], finder).train()
    assert not any(module.training for module in teachers.modules())
    assert not any(parameter.requires_grad for parameter in teachers.parameters())


def flat(**options: object) -> Network:
    tree = WordTree.flat(["a", "b"])
    return Network(Cfg.parse(input_size(64) + POOL * 5 + linear(7) + region(2, "1,1", **options)), tree)


def test_teachers_of_another_kind_are_refused(tmp_path: Path) -> None:
    student = colour_finder(PETS, ("cat", "pug", "vehicle"))

    def other(cells: str = "1,1", pools: int = 5, tree: WordTree = PETS, channels: int = 3) -> Network:
        body = (
            input_size(128, channels=channels)
            + POOL * pools
            + linear(5 + len(tree))
            + region(len(tree), cells, softmax=1)
        )
        return Network(Cfg.parse(body), tree)

    classifier = Network(Cfg.parse(input_size(32) + conv(4) + linear(len(PETS)) + CLASSIFIED), PETS)
    wrong = {
        "reads pictures of 1 channels, the student of 3": other(channels=1),
        "another tree": other(tree=BREEDS),
        "the anchors 2,2, the student 1,1": other("2,2"),
        "1,1 in cells of 16 pixels, the student 1,1 in cells of 32": other(pools=4),
        "1,1 in cells of 64 pixels": other(pools=6),
        "is a classifier": classifier,
    }
    for words, network in wrong.items():
        with pytest.raises(ConfigError, match=rf"teachers: .*t\.safetensors .*{words}"):
            Teachers([save(network, tmp_path / "t.safetensors")], student)
    for network in (classifier, other("2,2"), other(pools=4)):  # who names whole pictures needs no boxes
        model = save(network, tmp_path / "t.safetensors")
        assert Teachers([model], student, boxes=False).classes(coloured(2)).isfinite().all()
        assert Teachers([model], classifier).networks
    with pytest.raises(WeightsError, match="neither a model file nor a known name"):
        Teachers(["no-such-model"], student)
    sigmoids, softmax = flat(softmax=0), flat(softmax=1)
    with pytest.raises(ConfigError, match=r"teachers need classes that exclude one another.*softmax=0"):
        imitation(sigmoids, save(softmax, tmp_path / "t.safetensors"))
    with pytest.raises(ConfigError, match=r"t\.safetensors has classes that .*softmax=0"):
        imitation(softmax, save(sigmoids, tmp_path / "t.safetensors"))


def test_a_run_with_teachers_logs_what_is_left_to_learn(settings: Settings, tmp_path: Path) -> None:
    train_joint(settings(tmp_path / "teacher"))
    model = str(tmp_path / "teacher" / "model.safetensors")
    train_joint(settings(tmp_path / "run", teachers=[model, model], loss__teacher_scale=0.5))
    log = read_log(tmp_path / "run" / "metrics.csv")
    np.testing.assert_allclose(log["teacher_class_weighted"], log["teacher_class"] / 2, rtol=1e-5)
    weighted = [values for name, values in log.items() if name.endswith("_weighted")]
    np.testing.assert_allclose(log["loss"], np.nansum(weighted, 0), rtol=1e-4)


def test_a_classifier_learns_from_teachers_too(settings: Settings, tmp_path: Path) -> None:
    plain = {"data__detection": [], "augment__cutmix": 1.0}
    train_classifier(settings(tmp_path / "teacher", **plain))
    model = str(tmp_path / "teacher" / "model.safetensors")
    alone = input_size(32) + conv(8) + linear(9418) + "[avgpool]\n[softmax]\ntree=9k.tree\n"
    other = save(Network(Cfg.parse(alone)), tmp_path / "alone.safetensors")  # without a [region]
    train_classifier(settings(tmp_path / "run", teachers=[model, other], **plain))
    assert (read_log(tmp_path / "run" / "metrics.csv")["teacher_class"] > 0).all()


def test_an_unsuitable_teacher_is_told_before_data_are_read(
    settings: Settings, finder: Network, tmp_path: Path
) -> None:
    model = save(finder, tmp_path / "t.safetensors")
    config = settings(tmp_path / "run", teachers=[model], data__detection=["coco:nowhere"])
    with pytest.raises(ConfigError, match=r"teachers: .* has another tree .* by `yolo9000 retree`"):
        train_joint(config)


@pytest.mark.parametrize(
    ("side", "body", "words"),
    [
        (208, "", "14 x 14 cells .*208 x 208 .*13 x 13.* multiples of 32"),
        (128, conv(4, pad=0), "4 x 4 .*8 x 8.*pad=0"),
    ],
)
def test_a_teacher_of_another_map_is_told_before_data_are_read(
    side: int, body: str, words: str, settings: Settings, tmp_path: Path
) -> None:
    last = linear(5 + len(PETS))
    teacher = Cfg.parse(input_size(128) + POOL * 5 + body + last + region(len(PETS), "1,1", softmax=1))
    student = Cfg.parse(input_size(128) + POOL * 4 + last + region(len(PETS), "2,2", softmax=1))
    own = save(Network(student, PETS), tmp_path / "s.safetensors")
    model = save(Network(teacher, PETS), tmp_path / "t.safetensors")
    config = settings(
        tmp_path / "run", model=own, teachers=[model], data__sizes=[side], data__detection=["coco:nowhere"]
    )
    with pytest.raises(ConfigError, match=rf"teachers: .*t\.safetensors answers for {words}"):
        train_joint(config)
