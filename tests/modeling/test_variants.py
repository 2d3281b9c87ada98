"""Every combination of backbone, norm, activation, pyramid and mask settings trains a step and predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone, build_model
from detectron2.utils.events import EventStorage

from ramses_d2.errors import RamsesError
from ramses_d2.modeling.heads import MaskHead, Norm, get_norm
from ramses_d2.modeling.meta_arch import RAMSES
from tests.modeling.conftest import blocks, training_item

Build = Callable[..., RAMSES]
TIMM = ["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.NAME", "resnet18", "MODEL.TIMM.OUT_INDICES"]
VARIANTS: dict[str, list[Any]] = {
    "rms, silu": ["MODEL.RAMSES.NORM", "RMS", "MODEL.RAMSES.ACTIVATION", "SiLU"],
    "groups, relu": ["MODEL.RAMSES.NORM", "GN", "MODEL.RAMSES.NORM_GROUPS", 4, "MODEL.RAMSES.ACTIVATION", "ReLU"],
    "batch norm": ["MODEL.RAMSES.NORM", "BN"],
    "kernel 3": ["MODEL.RAMSES.HEAD.KERNEL_SIZE", 3],
    "square grids, ranges alone": ["MODEL.RAMSES.SQUARE_GRIDS", True, "MODEL.RAMSES.LEVEL_RULE", "range"],
    "coordinates on the coarsest level": ["MODEL.RAMSES.MASK_HEAD.COORDINATES", "coarsest"],
    "no masses": ["MODEL.RAMSES.MASS.ENABLED", False],
    "detectron2's pyramid": ["MODEL.FPN.STYLE", "detectron2"],
    "timm resnet": [*TIMM, (2, 3, 4)],
    "timm resnet, frozen norms": [*TIMM, (2, 3, 4), "MODEL.TIMM.NORM", "FrozenBN"],
    "P2, stride 4": [
        *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.RAMSES.MASK_STRIDE", 4),
        *("MODEL.RAMSES.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"], "MODEL.RAMSES.GRID_SIZES", [12, 10, 8, 6, 4]),
        *("MODEL.RAMSES.SCALE_RANGES", [[1, 32], [16, 64], [32, 128], [64, 256], [128, 512]]),
        *("MODEL.RAMSES.MASK_HEAD.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
    ],
    "P2, stride 2": [
        *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.RAMSES.MASK_STRIDE", 2),
        *("MODEL.RAMSES.IN_FEATURES", ["p2", "p3", "p4", "p5"], "MODEL.RAMSES.GRID_SIZES", [12, 10, 8, 6]),
        *("MODEL.RAMSES.SCALE_RANGES", [[1, 32], [16, 64], [32, 128], [64, 256]], "MODEL.FPN.EXTRA_LEVELS", 0),
        *("MODEL.RAMSES.MASK_HEAD.IN_FEATURES", ["p2", "p3", "p4", "p5"], "MODEL.RAMSES.MASK_HEAD.UPSCALE", "fused"),
    ],
}


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_trains_and_predicts(build_tiny: Build, overrides: list[Any]) -> None:
    model = build_tiny(*overrides, "MODEL.RAMSES.TEST.SCORE_THRESH", 0.0)
    stride = model.mask_stride
    item = training_item(blocks(128 // stride, 192 // stride, 4, size=48 // stride), stride=stride)
    with EventStorage():
        losses = model([item, item])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and losses["loss_cls"] > 0
    lost = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not lost, lost
    model.eval()
    with torch.no_grad():
        nothing = model.inference([item], model.settings.override(score_threshold=1.0))[0]["instances"]
        instances = model([item])[0]["instances"]
    assert len(nothing) == 0 and nothing.get_fields().keys() == instances.get_fields().keys()
    assert len(instances) and instances.image_size == (128, 192)
    assert instances.has("pred_masses") == (model.mask_head.geometry is not None)


def test_square_grids_have_as_many_rows_as_columns(build_tiny: Build) -> None:
    model = build_tiny("MODEL.RAMSES.SQUARE_GRIDS", True)
    cells, *_, shapes = model.raw_outputs(torch.rand(1, 3, 64, 192))
    assert shapes == [(g, g) for g in model.grid_sizes] and cells.kernels.shape[1] == sum(
        g * g for g in model.grid_sizes
    )


def test_coordinates_reach_the_coarsest_mask_level_only() -> None:
    sizes = {"in_channels": 4, "num_levels": 3, "mid_channels": 4, "out_channels": 2, "with_mass": False}
    widths = {
        mode: [pipeline[-1 if level == 0 else 1].in_channels for level, pipeline in enumerate(head.pipelines)]
        for mode in ("all", "coarsest")
        for head in [MaskHead(**sizes, coordinate_levels=mode)]
    }
    assert widths == {"all": [6, 6, 6], "coarsest": [4, 4, 6]}


@pytest.mark.parametrize("name", ["LN", "RMS", "GN", "BN"])
def test_norms_take_their_eps(name: str) -> None:
    """A large eps damps what the norm gives."""
    x = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    small, large = (get_norm(Norm(name, eps, 4), 8).train()(x) for eps in (1e-6, 3.0))
    torch.testing.assert_close(large / small, torch.full_like(x, 0.5), atol=0.25, rtol=0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.FPN.STYLE", "nosuch"], "MODEL.FPN.STYLE"),
        (["MODEL.FPN.STYLE", "detectron2", "MODEL.FPN.EXTRA_LEVELS", 2], "EXTRA_LEVELS"),
        (["MODEL.FPN.IN_FEATURES", ["res3", "res9"]], "res9"),
        (["MODEL.RAMSES.LEVEL_RULE", "nosuch"], "LEVEL_RULE"),
        (["MODEL.RAMSES.MASK_HEAD.COORDINATES", "nosuch"], "COORDINATES"),
        (["MODEL.RAMSES.MASK_HEAD.OUTPUT_LEVEL", 3], "OUTPUT_LEVEL"),
        (["MODEL.RAMSES.NORM", "GN", "MODEL.RAMSES.NORM_GROUPS", 7], "NORM_GROUPS"),
        ([*TIMM, (2, 3)], "res5"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(build_tiny: Build, overrides: list[Any], message: str) -> None:
    with pytest.raises(RamsesError, match=message) as error:
        build_tiny(*overrides)
    assert "\n" not in str(error.value)


def test_weights_of_a_backbone_are_read_when_the_network_is_built(tiny_cfg: CfgNode, tmp_path: Any) -> None:
    """Also by a plain ``build_model``, but not when MODEL.WEIGHTS has those of the whole network."""
    bottom_up = build_backbone(tiny_cfg).bottom_up
    state = {f"backbone.bottom_up.{name}": torch.full_like(t, 0.5) for name, t in bottom_up.state_dict().items()}
    torch.save({"model": state}, tmp_path / "backbone.pth")
    tiny_cfg.MODEL.CONVNEXTV2.WEIGHTS = str(tmp_path / "backbone.pth")
    assert all((p == 0.5).all() for p in build_model(tiny_cfg).backbone.bottom_up.parameters())
    tiny_cfg.MODEL.CONVNEXTV2.WEIGHTS = "nosuch.pth"
    with pytest.raises(RamsesError, match="nosuch.pth"):
        build_model(tiny_cfg)
    tiny_cfg.MODEL.WEIGHTS = "all.pth"
    build_model(tiny_cfg)
