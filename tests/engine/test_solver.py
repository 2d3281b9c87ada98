"""Parts and layers of every network, optimizer groups and clipping, schedules by number, and how long a training is."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from ramses_d2.config import load_config
from ramses_d2.engine.solver import (
    backbone_depths,
    build_optimizer,
    check_settings,
    clip_before_step,
    layers_from_input,
    parameter_groups,
    part_of,
    parts_of,
    resolve_iterations,
)
from ramses_d2.engine.trainer import RamsesTrainer
from ramses_d2.errors import RamsesError
from tests.engine.conftest import ROOT, TINY_YAML, tiny_config

TINY = (TINY_YAML,)
RESNET18 = ("MODEL.DEVICE", "cpu", "MODEL.TIMM.WEIGHTS", "", "MODEL.TIMM.NAME", "resnet18")
SOLOV2 = (str(ROOT / "configs/SOLOv2/solov2_R50_FPN_1x.yaml"), *RESNET18)
MASK_RCNN = (str(ROOT / "configs/MaskRCNN/mask_rcnn_R50_FPN.yaml"), *RESNET18)
NETWORK = "backbone.bottom_up.network."


def build(config_file: str, *overrides: object) -> nn.Module:
    return build_model(load_config(config_file, list(overrides)))


def wrapped(model: nn.Module) -> nn.Module:
    """As DistributedDataParallel does."""
    wrapper = nn.Module()
    wrapper.module = model
    return wrapper


RAMSES_FACTORS = {"BACKBONE": 0.1, "FPN": 0.2, "CLASS": 0.3, "KERNEL": 0.4, "MASS": 0.6, "MASK": 0.5}
SOLOV2_FACTORS = {part: factor for part, factor in RAMSES_FACTORS.items() if part != "MASS"}
MASK_RCNN_FACTORS = {"BACKBONE": 0.1, "FPN": 0.2, "MASK": 0.5, "RPN": 0.3, "BOX": 0.4}


@pytest.mark.parametrize(
    ("network", "factors", "groups"),
    [(TINY, RAMSES_FACTORS, 11), (SOLOV2, SOLOV2_FACTORS, 9), (MASK_RCNN, MASK_RCNN_FACTORS, 8)],
    ids=["ramses", "solov2", "mask_rcnn"],
)
def test_every_parameter_has_a_part_and_its_factor(network: tuple, factors: dict[str, float], groups: int) -> None:
    cfg = load_config(network[0], ["SOLVER.BASE_LR", 1.0, *network[1:]])
    model = build_model(cfg)
    parts = parts_of(model)
    assert [part.upper() for part in parts] == list(factors)  # in the order of the forward pass
    assert sum(map(len, parts.values())) == len(list(model.parameters()))
    cfg.merge_from_list([item for part, factor in factors.items() for item in (f"SOLVER.LR_FACTOR.{part}", factor)])
    found = build_optimizer(cfg, model).param_groups
    rate_of = {id(p): group["lr"] for group in found for p in group["params"]}
    for part, names in parts.items():
        assert {rate_of[id(model.get_parameter(name))] for name in names} == {factors[part.upper()]}
    assert len(found) == groups and all(group["params"] for group in found)  # with and without decay


def test_parts_by_name() -> None:
    names = {
        "backbone.bottom_up.network.stem_0.weight": "backbone",
        "backbone.stem.weight": "backbone",  # without a pyramid
        "module.backbone.lateral.0.weight": "fpn",
        "backbone.fpn_output2.bias": "fpn",
        "backbone.top_block.p6.weight": "fpn",
        "shared_head.class_logits.bias": "class",
        "shared_head.kernel_out.weight": "kernel",
        "shared_head.factor_branch.1.weight": "mass",
        "mask_head.geometry.0.weight": "mass",
        "mask_head.pipelines.1.1.weight": "mask",
        "proposal_generator.rpn_head.conv.weight": "rpn",
        "roi_heads.box_predictor.cls_score.weight": "box",
        "roi_heads.mask_head.deconv.weight": "mask",
        "something.weight": "other",
    }
    assert {name: part_of(name) for name in names} == names


def test_layers_go_from_the_input_to_the_heads() -> None:
    layers = layers_from_input(build(*TINY))
    assert layers[:3] == [f"{NETWORK}{name}" for name in ("stem_0", "stem_1", "stages_0.blocks.0.conv_dw")]
    order = [part_of(f"{name}.") for name in layers]
    assert order.index("fpn") == order.count("backbone")
    assert set(order[order.count("backbone") + order.count("fpn") :]) == {"class", "kernel", "mask", "mass"}
    # Detectron2 builds its pyramid first, and it is still second
    layers = layers_from_input(build(*SOLOV2))
    assert layers[0] == f"{NETWORK}conv1" and [part_of(f"{name}.") for name in layers].index("fpn") > 15


OWN_RESNET = (
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 18),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
)


@pytest.mark.parametrize(
    ("network", "count", "expected"),
    [
        # Stem and one block of each of the four stages; a reduction belongs to the block after it
        (
            TINY,
            5,
            {
                **{
                    f"{NETWORK}stem_0.weight": 0,
                    f"{NETWORK}stem_1.bias": 0,
                    f"{NETWORK}stages_0.blocks.0.conv_dw.weight": 1,
                },
                **{f"{NETWORK}stages_3.downsample.1.weight": 4, f"{NETWORK}stages_3.blocks.0.mlp.fc2.bias": 4},
            },
        ),
        (
            (*SOLOV2, "MODEL.TIMM.NORM", ""),
            9,
            {
                **{f"{NETWORK}conv1.weight": 0, f"{NETWORK}bn1.weight": 0},
                **{f"{NETWORK}layer1.0.conv1.weight": 1, f"{NETWORK}layer4.1.bn2.bias": 8},
            },
        ),
        (
            (*SOLOV2, *OWN_RESNET),
            9,
            {"backbone.bottom_up.stem.conv1.weight": 0, "backbone.bottom_up.res5.1.conv2.weight": 8},
        ),
    ],
    ids=["convnext", "timm_resnet", "detectron2_resnet"],
)
def test_depths_of_backbones(network: tuple, count: int, expected: dict[str, int]) -> None:
    model = build(*network)
    depths, found = backbone_depths(model)
    assert found == count and {name: depths[name] for name in expected} == expected
    assert all(name.startswith("backbone.bottom_up.") for name in depths)
    assert backbone_depths(wrapped(model)) == ({f"module.{name}": depth for name, depth in depths.items()}, count)


def test_a_backbone_of_unknown_layers_is_one_line() -> None:
    model = nn.Module()
    model.backbone = nn.Linear(2, 2)
    with pytest.raises(RamsesError, match="LAYER_DECAY"):
        backbone_depths(model)


def rates(model: nn.Module, **options: Any) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter that trains, by name."""
    options = {"base_lr": 1.0, "weight_decay": 0.1, "factors": {}, **options}
    of = {id(p): (g["lr"], g["weight_decay"]) for g in parameter_groups(model, **options) for p in g["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters() if id(p) in of}


def test_groups_split_decay_and_backbone() -> None:
    net = nn.Module()
    net.backbone = nn.Module()
    net.backbone.bottom_up = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm(4))
    net.head = nn.Linear(4, 2)
    net.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    expected = {
        "backbone.bottom_up.0.weight": (0.25, 0.1),
        "backbone.bottom_up.0.bias": (0.25, 0.0),
        "backbone.bottom_up.1.weight": (0.25, 0.0),
        "backbone.bottom_up.1.bias": (0.25, 0.0),
        "head.weight": (1.0, 0.1),
        "head.bias": (1.0, 0.0),
    }
    assert rates(net, factors={"backbone": 0.25}) == expected
    assert rates(wrapped(net), factors={"backbone": 0.25}) == {f"module.{name}": of for name, of in expected.items()}


def test_layers_of_the_backbone_decay_from_the_last_to_the_stem() -> None:
    model = build(*TINY)
    of = {name: rate for name, (rate, _) in rates(model, factors={"backbone": 0.5}, layer_decay=0.8).items()}
    assert of[f"{NETWORK}stem_0.weight"] == pytest.approx(0.5 * 0.8**5)
    assert of[f"{NETWORK}stages_0.blocks.0.conv_dw.weight"] == pytest.approx(0.5 * 0.8**4)
    assert of[f"{NETWORK}stages_3.blocks.0.mlp.fc1.weight"] == pytest.approx(0.5 * 0.8)
    assert of["backbone.lateral.0.weight"] == of["mask_head.mask_out.weight"] == 1.0
    groups = parameter_groups(model, base_lr=1.0, weight_decay=0.1, factors={}, layer_decay=0.8)
    assert len(groups) == 2 * (5 + 1)


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


def settings(*overrides: object) -> CfgNode:
    schedule = ["SOLVER.MAX_ITER", 100, "SOLVER.WARMUP_ITERS", 10, "SOLVER.WARMUP_FACTOR", 0.1]
    return load_config(TINY_YAML, [*schedule, *overrides])


def learning_rates(*overrides: object) -> list[list[float]]:
    """Of two groups, with rates 1 and 0.5, at every step."""
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 0.5)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = RamsesTrainer.build_lr_scheduler(settings(*overrides), optimizer)
    found = []
    for _ in range(100):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return found


def test_warm_up_and_cosine_is_the_default() -> None:
    assert settings().SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR"
    found = [first for first, _ in learning_rates()]
    cosine = [0.5 * (1 + math.cos(math.pi * step / 100)) for step in range(100)]
    assert found[0] == pytest.approx(0.1) and found[5] == pytest.approx((0.1 + cosine[10]) / 2)
    assert found[10:] == pytest.approx(cosine[10:])


def test_warm_up_and_steps() -> None:
    steps = ["SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", (40, 80), "SOLVER.GAMMA", 0.1]
    found = learning_rates(*steps)
    for step, rate in ((39, 1.0), (40, 0.1), (79, 0.1), (80, 0.01)):
        assert found[step] == pytest.approx([rate, rate / 2])


NUMBERS = [
    *[("IMS_PER_BATCH", 0), ("IMS_PER_BATCH", -2), ("CHECKPOINT_PERIOD", 0), ("BASE_LR", -1.0), ("WEIGHT_DECAY", -0.1)],
    *[
        ("MOMENTUM", -0.1),
        ("WARMUP_ITERS", -1),
        ("WARMUP_FACTOR", -1.0),
        ("DATALOADER.NUM_WORKERS", -1),
        ("SEED", 2**32),
    ],
]
TRAINING_SETTINGS = [
    *[("LR_FACTOR.FPN", -1.0), ("LAYER_DECAY", 1.5), ("LAYER_DECAY", 0.0), ("MAX_EPOCHS", -1), ("MAX_ITER", 0)],
    *[("EMA_DECAY", 1.0), ("EMA_DECAY", -0.1), ("EARLY_STOPPING.PATIENCE", -1), ("EARLY_STOPPING.MIN_DELTA", -1.0)],
    *[("LR_SCHEDULER_NAME", "Cosine"), ("WARMUP_METHOD", "slow"), ("OPTIMIZER", "Adam"), ("TEST.BEST_MODE", "most")],
    ("CLIP_GRADIENTS.CLIP_TYPE", "hard"),
]


@pytest.mark.parametrize(("key", "value"), [*NUMBERS, *TRAINING_SETTINGS])
def test_a_setting_out_of_its_range_is_one_line(key: str, value: object) -> None:
    """Of both, a script hears too: with a batch without images the loader would look for a full one for ever."""
    key = key if key == "SEED" or key.startswith(("TEST", "DATALOADER")) else f"SOLVER.{key}"
    for check in [check_settings] * ((key.removeprefix("SOLVER."), value) in NUMBERS) + [resolve_iterations]:
        with pytest.raises(RamsesError, match=f'^{key} is "?{value}"?, use ') as error:
            check(settings(key, value), *[7] * (check is resolve_iterations))
        assert "\n" not in str(error.value)


def test_settings_at_the_ends_of_their_ranges() -> None:
    ends = {"SEED": 2**32 - 1, "SOLVER.IMS_PER_BATCH": 1, "SOLVER.BASE_LR": 0.0, "SOLVER.LAYER_DECAY": 1.0}
    resolve_iterations(settings(*[item for pair in ends.items() for item in pair]), 7)


def test_the_plateau_schedule_has_gone_and_its_keys_still_load(tmp_path: Path) -> None:
    """A config.yaml that an older release wrote has them all."""
    old = "SOLVER: {PLATEAU: {METRIC: segm/AP, MODE: max, PATIENCE: 3, FACTOR: 0.5, MIN_FACTOR: 0.001}, MAX_ITER: 9}\n"
    (tmp_path / "config.yaml").write_text(f"_BASE_: {TINY_YAML}\n{old}")
    cfg = load_config(str(tmp_path / "config.yaml"))
    resolve_iterations(cfg, 7)
    assert cfg.SOLVER.MAX_ITER == 9
    cfg.SOLVER.LR_SCHEDULER_NAME = "ReduceOnPlateau"
    with pytest.raises(RamsesError, match=r"SOLVER.LR_SCHEDULER_NAME .*docs/changes.md"):
        resolve_iterations(cfg, 7)


def test_epochs_become_steps(caplog: pytest.LogCaptureFixture) -> None:
    cfg = settings("SOLVER.MAX_EPOCHS", 3, "SOLVER.IMS_PER_BATCH", 8)
    with caplog.at_level(logging.INFO, "ramses_d2"):
        for _ in range(2):  # again as a resume does, with the config that the first run wrote
            resolve_iterations(cfg, 101)
            assert cfg.SOLVER.MAX_ITER == 38  # 37.875
    assert "3 epochs of 101 images in batches of 8: SOLVER.MAX_ITER is 38" in caplog.text
    caplog.clear()
    cfg = settings()
    resolve_iterations(cfg, 7)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (100, 10) and not caplog.records


@pytest.mark.parametrize(("steps", "warm_up", "expected"), [(40, 500, 4), (40, 40, 4), (40, 39, 39)])
def test_a_warm_up_longer_than_the_training_is_shortened(
    steps: int, warm_up: int, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = settings("SOLVER.MAX_ITER", steps, "SOLVER.WARMUP_ITERS", warm_up)
    resolve_iterations(cfg, 7)
    assert cfg.SOLVER.WARMUP_ITERS == expected and bool(caplog.records) == (expected != warm_up)


def test_a_script_that_builds_the_trainer_itself_has_epochs_too(folder: Path, tmp_path: Path) -> None:
    cfg = tiny_config(folder, tmp_path / "out", "SOLVER.MAX_EPOCHS", 3)
    cfg.freeze()
    trainer = RamsesTrainer(cfg)
    assert trainer.max_iter == trainer.cfg.SOLVER.MAX_ITER == 8
