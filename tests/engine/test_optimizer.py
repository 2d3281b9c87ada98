"""Optimizer groups and clipping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from ramses_d2.config import load_config
from ramses_d2.engine.solver import build_optimizer, clip_before_step, parameter_groups, part_of, resolve_iterations
from ramses_d2.errors import RamsesError

TINY_YAML = str(Path(__file__).parents[1] / "ramses_tiny.yaml")
MASK_RCNN_YAML = str(Path(__file__).parents[2] / "configs/MaskRCNN/mask_rcnn_R50_FPN.yaml")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.bottom_up = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm(4))
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def rates(model: nn.Module, **options: Any) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter that trains, by name."""
    options = {"base_lr": 1.0, "weight_decay": 0.1, "factors": {}, **options}
    of = {id(p): (g["lr"], g["weight_decay"]) for g in parameter_groups(model, **options) for p in g["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters() if id(p) in of}


def test_groups_split_decay_and_backbone() -> None:
    net = Net()
    assert rates(net, factors={"backbone": 0.25}) == {
        "backbone.bottom_up.0.weight": (0.25, 0.1),
        "backbone.bottom_up.0.bias": (0.25, 0.0),
        "backbone.bottom_up.1.weight": (0.25, 0.0),
        "backbone.bottom_up.1.bias": (0.25, 0.0),
        "head.weight": (1.0, 0.1),
        "head.bias": (1.0, 0.0),
    }


def test_a_parallel_wrapper_changes_nothing() -> None:
    net = nn.Module()
    net.module = Net()
    groups = parameter_groups(net, base_lr=1.0, weight_decay=0.1, factors={"backbone": 0.25})
    assert sorted((g["lr"], g["weight_decay"]) for g in groups) == [(0.25, 0.0), (0.25, 0.1), (1.0, 0.0), (1.0, 0.1)]


RAMSES = {"BACKBONE": 0.1, "FPN": 0.2, "CLASS": 0.3, "KERNEL": 0.4, "MASK": 0.5, "MASS": 0.6}
MASK_RCNN = {"BACKBONE": 0.1, "FPN": 0.2, "RPN": 0.3, "BOX": 0.4, "MASK": 0.5}
RESNET18 = ("MODEL.DEVICE", "cpu", "MODEL.TIMM.WEIGHTS", "", "MODEL.TIMM.NAME", "resnet18")


@pytest.mark.parametrize(
    ("config_file", "overrides", "factors", "count"),
    [(TINY_YAML, (), RAMSES, 11), (MASK_RCNN_YAML, RESNET18, MASK_RCNN, 8)],
    ids=["ramses", "mask_rcnn"],
)
def test_every_part_has_its_factor(
    config_file: str, overrides: tuple[object, ...], factors: dict[str, float], count: int
) -> None:
    cfg = load_config(config_file, ["SOLVER.BASE_LR", 1.0, *overrides])
    model = build_model(cfg)
    cfg.merge_from_list([item for part, factor in factors.items() for item in (f"SOLVER.LR_FACTOR.{part}", factor)])
    groups = build_optimizer(cfg, model).param_groups
    of = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert of[id(parameter)] == factors[part_of(name).upper()], name
    assert len(groups) == count  # with and without decay; the pyramid has neither norms nor biases
    assert all(group["params"] for group in groups)


def test_layers_of_the_backbone_decay_from_the_last_to_the_stem() -> None:
    model = build_model(load_config(TINY_YAML))
    of = {name: rate for name, (rate, _) in rates(model, factors={"backbone": 0.5}, layer_decay=0.8).items()}
    network = "backbone.bottom_up.network."
    # Five layers: stem, then a block in each of four stages
    assert of[f"{network}stem_0.weight"] == pytest.approx(0.5 * 0.8**5)
    assert of[f"{network}stages_0.blocks.0.conv_dw.weight"] == pytest.approx(0.5 * 0.8**4)
    assert of[f"{network}stages_3.blocks.0.mlp.fc1.weight"] == pytest.approx(0.5 * 0.8)
    assert of["backbone.lateral.0.weight"] == of["mask_head.mask_out.weight"] == 1.0
    groups = parameter_groups(model, base_lr=1.0, weight_decay=0.1, factors={}, layer_decay=0.8)
    assert len(groups) == 2 * (5 + 1)


@pytest.mark.parametrize(
    ("key", "value"), [("LR_FACTOR.FPN", -1.0), ("LAYER_DECAY", 1.5), ("LAYER_DECAY", 0.0), ("EMA_DECAY", 1.0)]
)
def test_rates_out_of_range_are_one_line(key: str, value: float) -> None:
    with pytest.raises(RamsesError, match=f"{key} is {value}"):
        resolve_iterations(load_config(TINY_YAML, [f"SOLVER.{key}", value]), 7)


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
        resolve_iterations(load_config(TINY_YAML, ["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "hard"]), 7)
