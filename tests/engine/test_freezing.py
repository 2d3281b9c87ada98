"""Frozen parts stand still: weights, running statistics, noise; everything else trains."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from timm.layers import DropPath
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ramses_d2.config import load_config
from ramses_d2.engine.freezing import freeze
from ramses_d2.engine.solver import build_optimizer, layers_from_input, part_of, parts_of
from ramses_d2.errors import RamsesError
from tests.engine.conftest import ROOT
from tests.modeling.conftest import blocks, training_item

TINY = "tests/ramses_tiny.yaml"
SEGMENTATION = ["backbone", "fpn", "class", "kernel", "mask"]


def build(*overrides: object, config_file: str = TINY) -> nn.Module:
    torch.manual_seed(0)
    return build_model(load_config(str(ROOT / config_file), list(overrides)))


def parts_that_train(model: nn.Module) -> set[str]:
    return {part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}


def train(model: nn.Module, steps: int, *overrides: object, network: nn.Module | None = None) -> None:
    """A few steps of AdamW with a large weight decay."""
    options = ["SOLVER.WEIGHT_DECAY", 0.5, "SOLVER.BASE_LR", 0.01, *overrides]
    optimizer = build_optimizer(load_config(str(ROOT / TINY), options), model)
    network = network or model
    network.train()
    for seed in range(steps):
        with EventStorage():
            losses = network([training_item(blocks(16, 24, 5), seed=seed)])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()


def changed_parts(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    return {part_of(name) for name, value in model.state_dict().items() if not torch.equal(before[name], value)}


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["backbone"], {"fpn", "class", "kernel", "mask", "mass"}),
        (["all but heads"], {"class", "kernel", "mask", "mass"}),
        (SEGMENTATION, {"mass"}),
        (["mass", "all but heads"], {"class", "kernel", "mask"}),
        (["class", "kernel"], {"backbone", "fpn", "mask", "mass"}),
        (["0.5"], {"fpn", "class", "kernel", "mask", "mass"}),
    ],
)
def test_only_what_is_left_changes(names: list[str], left: set[str], one_rank: Callable) -> None:
    """DistributedDataParallel fails in its second step if a parameter that it waits for gets no gradient."""
    model = build()
    freeze(model, names)
    before = copy.deepcopy(model.state_dict())
    train(model, 3, network=DistributedDataParallel(model))
    assert changed_parts(before, model) == parts_that_train(model) == left


@pytest.mark.parametrize(("share", "frozen"), [("0", 0), ("0.5", 28), ("0.9", 51), (0.9, 51)])
def test_a_share_counts_layers_from_the_input(share: str, frozen: int) -> None:
    model = build()
    layers = layers_from_input(model)
    assert len(layers) == 57
    freeze(model, [share])
    trains = [any(p.requires_grad for p in model.get_submodule(name).parameters(recurse=False)) for name in layers]
    assert trains == [False] * frozen + [True] * (len(layers) - frozen)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        *[
            ([name], f'"{name}" .* backbone, .*mass.*"all but heads"')
            for name in ("bakbone", "rpn", "1.5", "-0.1", "nan")
        ],
        ([*SEGMENTATION, "mass"], "leaves nothing to train"),
        (["1"], "leaves nothing to train"),
    ],
)
def test_names_that_cannot_be_frozen_are_one_line(names: list[str], message: str) -> None:
    with pytest.raises(RamsesError, match=message) as error:
        freeze(build(), names)
    assert "\n" not in str(error.value)


def test_frozen_batch_norms_keep_their_statistics() -> None:
    backbone = ("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.NAME", "resnet18")
    model = build(*backbone, "MODEL.RAMSES.NORM", "BN")
    freeze(model, ["backbone", "class"])
    model.eval()
    before = copy.deepcopy(model.state_dict())
    train(model, 1)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    statistics = {part_of(name) for name in moved if "running_mean" in name}
    assert statistics == {"kernel", "mass", "mask"}
    # The same output as at inference: the statistics are used, not those of the batch
    image = torch.rand(1, 3, 64, 64)
    training = model.backbone.bottom_up(image)["res5"]
    assert torch.equal(model.eval().backbone.bottom_up(image)["res5"], training)


def test_frozen_stochastic_depth_is_off_and_a_copy_stays_frozen() -> None:
    model = build("MODEL.CONVNEXTV2.DROP_PATH", 0.9)
    assert any(isinstance(module, DropPath) for module in model.modules())
    freeze(model, ["backbone"])
    for network in (model, copy.deepcopy(model)):
        network.train()
        assert network.training and network.backbone.bottom_up.training
        assert not any(module.training for module in network.modules() if isinstance(module, DropPath))
        image = torch.rand(1, 3, 64, 64)
        first, second = (network.backbone.bottom_up(image)["res5"] for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.parametrize(("weight", "still"), [("CLS", {"class"}), ("MASS", {"mass"}), ("MASK", {"kernel", "mask"})])
def test_weight_decay_spares_a_branch_whose_loss_has_weight_0(weight: str, still: set[str], one_rank: Callable) -> None:
    key = f"MODEL.RAMSES.LOSS.{weight}_WEIGHT"
    model = build(key, 0.0)
    before = copy.deepcopy(model.state_dict())
    freeze(model, [])
    train(model, 2, network=DistributedDataParallel(model))
    after = model.state_dict()
    same = {name for name, value in after.items() if torch.equal(before[name], value)}
    # The fused levels go on learning from the masses: they also make the geometry map
    fused = {name for name in before if name.startswith("mask_head.pipelines.")}
    assert fused and same == {name for name in before if part_of(name) in still} - fused


def test_without_masks_and_masses_the_mask_head_rests_altogether(caplog: pytest.LogCaptureFixture) -> None:
    model = build("MODEL.RAMSES.LOSS.MASK_WEIGHT", 0.0, "MODEL.RAMSES.LOSS.MASS_WEIGHT", 0.0)
    with caplog.at_level(logging.INFO, "ramses_d2"):
        freeze(model, [])
    assert parts_that_train(model) == {"backbone", "fpn", "class"}
    (line,) = (record.message for record in caplog.records)
    counts = {part: sum(model.get_parameter(name).numel() for name in names) for part, names in parts_of(model).items()}
    left = counts["backbone"] + counts["fpn"] + counts["class"]
    assert line.startswith(f"Parameters that train: {left:,} of {sum(counts.values()):,} (backbone ")
    assert f"mass 0 of {counts['mass']:,}" in line and f"class {counts['class']:,} of" in line
    with pytest.raises(RamsesError, match="nothing to train"):
        freeze(model, ["backbone", "fpn", "class"])


def test_the_second_stage_leaves_the_segmentation_bit_for_bit() -> None:
    model = build("MODEL.RAMSES.TEST.SCORE_THRESH", 0.0)
    images = [{key: training_item(blocks(16, 24, 5))[key] for key in ("image", "resolution")}]

    def predictions() -> Instances:
        with torch.no_grad():
            return model.eval()(images)[0]["instances"]

    before = predictions()
    freeze(model, SEGMENTATION)
    train(model, 3)
    after = predictions()
    assert len(after) > 3
    for field in ("scores", "pred_classes", "pred_masks"):
        assert torch.equal(before.get(field), after.get(field)), field
    assert not torch.equal(before.pred_masses, after.pred_masses)


def test_mask_rcnn_trains_with_frozen_heads() -> None:
    """A proposal network in evaluation mode would give no losses, and other proposals."""
    options = ["MODEL.DEVICE", "cpu", "MODEL.TIMM.WEIGHTS", "", "MODEL.TIMM.NAME", "resnet18", "MODEL.TIMM.NORM", ""]
    model = build(*options, config_file="configs/MaskRCNN/mask_rcnn_R50_FPN.yaml")
    freeze(model, ["backbone", "rpn", "mask"])
    model.train()
    assert parts_that_train(model) == {"fpn", "box"}
    assert model.proposal_generator.training and model.roi_heads.training and model.roi_heads.mask_head.training
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(module.training for module in norms)


# No head takes p6; or p4 and p5, but p6 is made of p5; or the last of Mask R-CNN's levels
WITHOUT_P6 = (
    *("MODEL.RAMSES.IN_FEATURES", ["p3", "p4", "p5"], "MODEL.RAMSES.GRID_SIZES", [24, 12, 8]),
    *("MODEL.RAMSES.SCALE_RANGES", [[1, 32], [16, 64], [32, 512]]),
)
WITHOUT_P4_AND_P5 = (
    *("MODEL.RAMSES.IN_FEATURES", ["p3", "p6"], "MODEL.RAMSES.MASK_HEAD.IN_FEATURES", ["p3"]),
    *("MODEL.RAMSES.GRID_SIZES", [24, 4], "MODEL.RAMSES.SCALE_RANGES", [[1, 32], [16, 512]]),
)
ANCHORS = ("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64]])
MASK_RCNN = ("MODEL.RPN.IN_FEATURES", ["p3", "p4", "p5", "p6"], *ANCHORS)


@pytest.mark.parametrize(
    ("options", "config_file", "still", "unused"),
    [
        (WITHOUT_P6, TINY, "backbone.extra.0.weight", "p6"),
        (WITHOUT_P4_AND_P5, TINY, "backbone.output.1.weight", "p4, p5"),
        (MASK_RCNN, "tests/mask_rcnn_tiny.yaml", "backbone.extra.1.weight", "p7"),
    ],
)
def test_levels_that_no_head_takes_rest(
    options: tuple, config_file: str, still: str, unused: str, one_rank: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    model = build(*options, config_file=config_file)
    with caplog.at_level(logging.WARNING, "ramses_d2"):
        freeze(model, [])
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [still]
    assert f"No head takes {unused}, " in caplog.text and all(p.grad is None for p in model.parameters())
    if config_file == TINY:
        train(model, 2, network=DistributedDataParallel(model))
    freeze(model, ["all but heads"])
    freeze(model, [])  # nothing of the backbone trains any more
    assert not parts_that_train(model) & {"backbone", "fpn"}
