"""Optimizer groups and clipping."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ramses_d2 import RamsesError
from ramses_d2.engine.optimizer import clip_before_step, parameter_groups


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.bottom_up = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm(4))
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def test_groups_split_decay_and_backbone() -> None:
    net = Net()
    groups = parameter_groups(net, base_lr=1.0, weight_decay=0.1, backbone_lr_factor=0.25)
    of = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    conv, norm = net.backbone.bottom_up
    assert of[id(conv.weight)] == (0.25, 0.1)
    assert of[id(conv.bias)] == of[id(norm.weight)] == of[id(norm.bias)] == (0.25, 0.0)
    assert of[id(net.head.weight)] == (1.0, 0.1) and of[id(net.head.bias)] == (1.0, 0.0)
    assert id(net.frozen) not in of and len(of) == 6


def test_a_parallel_wrapper_changes_nothing() -> None:
    net = nn.Module()
    net.module = Net()
    groups = parameter_groups(net, base_lr=1.0, weight_decay=0.1, backbone_lr_factor=0.25)
    assert sorted((g["lr"], g["weight_decay"]) for g in groups) == [(0.25, 0.0), (0.25, 0.1), (1.0, 0.0), (1.0, 0.1)]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("full_model", ([0.6, 0.0], [0.0, 0.8])), ("norm", ([1.0, 0.0], [0.0, 1.0])), ("value", ([1.0, 0.0], [0.0, 1.0]))],
)
def test_clipping(kind: str, expected: tuple[list[float], list[float]]) -> None:
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([a, b], lr=1.0)
    clip_before_step(optimizer, kind, 1.0, 2.0)
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    optimizer.step()
    torch.testing.assert_close((-a.data, -b.data), tuple(torch.tensor(e) for e in expected), atol=1e-4, rtol=0)


def test_unknown_clipping_is_an_error() -> None:
    with pytest.raises(RamsesError, match="CLIP_TYPE"):
        clip_before_step(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), "hard", 1.0, 2.0)
