"""Box conversions and overlaps against values worked out by hand and against torchvision."""

from __future__ import annotations

import pytest
import torch
from torchvision import ops

from yolo9000.boxes import box_iou, cxcywh_to_xyxy, paired_giou, paired_iou, shape_iou, xyxy_to_cxcywh


def random_boxes(count: int) -> torch.Tensor:
    corner = torch.rand(count, 2)
    return torch.cat((corner, corner + torch.rand(count, 2)), 1)


def test_corners_and_centres() -> None:
    corners = torch.tensor([[10.0, 20, 30, 60]])
    assert cxcywh_to_xyxy(torch.tensor([[20.0, 40, 20, 40]])).equal(corners)
    assert xyxy_to_cxcywh(corners).tolist() == [[20, 40, 20, 40]]
    boxes = random_boxes(50)
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)
    assert cxcywh_to_xyxy(torch.zeros(0, 4)).shape == (0, 4)


def test_overlap_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]])
    others = torch.tensor([[1.0, 1, 3, 3], [5, 5, 6, 6], [0, 0, 2, 2]])
    assert box_iou(boxes, others).tolist() == [[pytest.approx(1 / 7), 0, 1], [0, 0, 0.25]]


def test_overlap_agrees_with_torchvision_and_pair_by_pair() -> None:
    boxes, others = random_boxes(40), random_boxes(30)
    pairs = box_iou(boxes, others)
    torch.testing.assert_close(pairs, ops.box_iou(boxes, others))
    torch.testing.assert_close(paired_iou(boxes[:30], others), pairs[:30].diagonal())


def test_empty_boxes_overlap_nothing() -> None:
    point = torch.tensor([[1.0, 1, 1, 1]])
    assert box_iou(point, point).item() == 0
    assert shape_iou(torch.zeros(1, 2), torch.zeros(1, 2)).item() == 0
    assert box_iou(torch.zeros(0, 4), point).shape == (0, 1)


def test_shapes_on_one_centre() -> None:
    sizes = torch.tensor([[2.0, 4.0], [3.0, 3.0]])
    priors = torch.tensor([[2.0, 4.0], [4.0, 2.0], [1.0, 1.0]])
    expected = [
        [1, pytest.approx(4 / 12), 0.125],
        [pytest.approx(6 / 11), pytest.approx(6 / 11), pytest.approx(1 / 9)],
    ]
    assert shape_iou(sizes, priors).tolist() == expected
    boxes = [torch.cat((-wh / 2, wh / 2), 1) for wh in (sizes, priors)]
    torch.testing.assert_close(shape_iou(sizes, priors), box_iou(*boxes))


def test_overlap_has_gradients() -> None:
    boxes = random_boxes(5).double().requires_grad_()
    others = (boxes.detach() + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(paired_iou, (boxes, others))
    assert torch.autograd.gradcheck(paired_giou, (boxes, others))


def test_generalised_overlap_is_that_of_torchvision() -> None:
    boxes, others = random_boxes(30), random_boxes(20)
    pairs = ops.generalized_box_iou(boxes, others)
    torch.testing.assert_close(paired_giou(boxes[:, None], others), pairs)
    assert pairs.min() < 0
