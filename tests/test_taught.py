"""Groups that training said nothing about become uniform."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toys import BREEDS, conv, input_size, linear, region
from yolo9000.darknet.cfg import Cfg
from yolo9000.errors import ConfigError
from yolo9000.network import Network
from yolo9000.taught import forget_untaught, group_labels

CFG = input_size(32) + conv(4, norm=0, stride=32) + linear(28) + region(9, "1,1, 2,2", coords=4, softmax=1)


def test_labels_teach_every_group_above_them() -> None:
    counts = np.array([5, 0, 7, 1, 2, 0, 0, 0, 3])
    # top: all 18; dog and cat: 7 + 1 + 2; husky and pug: 2; tabby: 0; car and bus: 3
    starts = [BREEDS.names[start] for start in BREEDS.group_start]
    by_name = dict(zip(starts, group_labels(BREEDS, counts), strict=True))
    assert by_name == {"animal": 18, "dog": 10, "husky": 2, "tabby": 0, "car": 3}


def test_untaught_groups_become_uniform_and_the_others_stay() -> None:
    torch.manual_seed(0)
    network = Network(Cfg.parse(CFG), BREEDS)
    head = network.head
    assert head is not None
    with torch.no_grad():
        head.class_weight.normal_()
        head.class_bias.normal_()
    vectors = torch.randn(3, 4, 1, 1)
    where = (
        torch.arange(3),
        torch.tensor([0, 1, 1]),
        torch.zeros(3, dtype=torch.long),
        torch.zeros(3, dtype=torch.long),
    )
    before = head.ops.log_softmax(head.class_logits(vectors, *where)).exp()
    changed = forget_untaught(network, np.array([0, 0, 9, 9, 4, 0, 0, 3, 2]), 5)
    after = head.ops.log_softmax(head.class_logits(vectors, *where)).exp()
    names = list(BREEDS.names)
    kept = [names.index(name) for name in ("animal", "vehicle", "dog", "cat", "car", "bus")]
    torch.testing.assert_close(after[:, kept], before[:, kept])
    torch.testing.assert_close(after[:, [names.index("husky"), names.index("pug")]], torch.full((3, 2), 0.5))
    assert changed == 1


def test_many_labels_at_the_parent_outweigh_few_below() -> None:
    network = Network(Cfg.parse(CFG), BREEDS)
    head = network.head
    assert head is not None
    # 100 labels say 'dog' and 20 say which: less than a quarter. 40 say 'vehicle' and 20 which: enough.
    forget_untaught(network, np.array([0, 40, 100, 50, 10, 10, 0, 10, 10]), 5)
    assert not head.class_weight[:, [4, 5]].any()
    assert head.class_weight[:, [7, 8]].any()
    assert head.class_weight[:, [2, 3]].any()


def test_the_top_group_stays_and_wrong_counts_are_refused() -> None:
    network = Network(Cfg.parse(CFG), BREEDS)
    assert network.head is not None
    before = network.head.class_weight[:, :2].clone()
    forget_untaught(network, np.zeros(9, np.int64), 1)
    assert torch.equal(network.head.class_weight[:, :2], before)
    assert not network.head.class_weight[:, 2:].any()
    with pytest.raises(ConfigError, match="expected 9 counts"):
        forget_untaught(network, np.zeros(3, np.int64), 1)
