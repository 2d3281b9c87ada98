"""The whole network: training and inference on ordinary, empty and crowded images, in every combination of settings."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone, build_model
from detectron2.utils.events import EventStorage

from ramses_d2.errors import RamsesError
from ramses_d2.modeling.meta_arch import RAMSES
from ramses_d2.modeling.postprocess import paste_in_box
from tests.modeling.conftest import blocks, training_item

LOSSES = {"loss_cls", "loss_mask", "loss_mass"}
Build = Callable[..., RAMSES]
EMPTY = np.zeros((16, 24), np.int64)
TIMM = ["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.NAME", "resnet18", "MODEL.TIMM.OUT_INDICES"]
FEATURES, MASK_FEATURES = "MODEL.RAMSES.IN_FEATURES", "MODEL.RAMSES.MASK_HEAD.IN_FEATURES"
P2 = [
    *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], MASK_FEATURES, ["p2", "p3", "p4", "p5"]),
    *(FEATURES, ["p2", "p3", "p4", "p5"], "MODEL.RAMSES.GRID_SIZES", [12, 10, 8, 6], "MODEL.FPN.EXTRA_LEVELS", 0),
    *("MODEL.RAMSES.SCALE_RANGES", [[1, 32], [16, 64], [32, 128], [64, 256]]),
]
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
    "P2, stride 4": [*P2, "MODEL.RAMSES.MASK_STRIDE", 4],
    "P2, stride 2": [*P2, "MODEL.RAMSES.MASK_STRIDE", 2, "MODEL.RAMSES.MASK_HEAD.UPSCALE", "fused"],
}


def losses_of(model: RAMSES, *items: dict) -> dict[str, torch.Tensor]:
    """Losses, after a backward pass that reaches every parameter."""
    with EventStorage():
        losses = model(list(items))
    model.zero_grad()
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    # Every parameter takes part, or DistributedDataParallel would wait for ever
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in parameters.items() if p.grad is None or not p.grad.isfinite().all()] == []
    return losses


def predict(model: RAMSES, *items: dict) -> list:
    with torch.no_grad():
        return [output["instances"] for output in model.eval()(list(items))]


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_trains_and_predicts(build_tiny: Build, overrides: list[Any]) -> None:
    model = build_tiny(*overrides, "MODEL.RAMSES.TEST.SCORE_THRESH", 0.0)
    stride, has_mass = model.mask_stride, model.mask_head.geometry is not None
    item = training_item(blocks(128 // stride, 192 // stride, 4, size=48 // stride), stride=stride)
    losses = losses_of(model, item, item)
    assert losses.keys() == (LOSSES if has_mass else LOSSES - {"loss_mass"}) and losses["loss_cls"] > 0
    (instances,) = predict(model, item)
    nothing = model.inference([item], model.settings.override(score_threshold=1.0))[0]["instances"]
    assert len(nothing) == 0 and nothing.get_fields().keys() == instances.get_fields().keys()
    assert len(instances) and instances.image_size == (128, 192) and instances.has("pred_masses") == has_mass


@pytest.mark.parametrize(
    ("counts", "is_zero"), [((0, 0), True), ((0, 3), False), ((1,), False), ((5, 2), False)], ids=str
)
def test_training_on_empty_half_empty_and_ordinary_batches(
    build_tiny: Build, counts: tuple[int, ...], is_zero: bool
) -> None:
    losses = losses_of(build_tiny(), *(training_item(blocks(16, 24, count), seed=i) for i, count in enumerate(counts)))
    assert losses.keys() == LOSSES
    assert (losses["loss_mass"].item() == 0) == is_zero and (losses["loss_mask"].item() == 0) == is_zero


def test_training_and_inference_with_800_objects(build_tiny: Build) -> None:
    model = build_tiny("MODEL.RAMSES.GRID_SIZES", [96, 48, 24, 12], "MODEL.RAMSES.TEST.SCORE_THRESH", 0.0)
    item = training_item(blocks(80, 120, 800, size=2))
    losses_of(model, item)
    assert 0 < len(predict(model, item)[0]) <= 1000


def test_more_objects_than_positives_each_keep_a_cell(build_tiny: Build) -> None:
    model = build_tiny("MODEL.RAMSES.LOSS.MAX_POS_PER_IMAGE", 3)
    seen = []
    model.shared_head.kernel_out.register_full_backward_hook(lambda *args: seen.append(args[2][0]))
    losses_of(model, training_item(blocks(16, 24, 10, size=3)))
    assert sum(int((grad.abs().sum(1) > 0).sum()) for grad in seen) == 10


def test_unknown_masses_and_resolutions_give_no_mass_loss(build_tiny: Build) -> None:
    unknown = training_item(blocks(16, 24, 2), masses=[math.nan, math.nan])
    for item in (unknown, training_item(blocks(16, 24, 2)) | {"mass_scale": math.nan}):
        assert losses_of(build_tiny(), item)["loss_mass"].item() == 0


def test_a_few_steps_learn_the_image(build_tiny: Build) -> None:
    """Outlines, classes and grams of three blocks, from nothing."""
    label_map = np.zeros((16, 24), np.int64)
    label_map[2:7, 2:8], label_map[9:14, 3:10], label_map[4:12, 14:21] = 1, 2, 3
    item, model = training_item(label_map, masses=[3.0, 5.0, 8.0]), build_tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(100):
        losses_of(model, item)
        optimizer.step()
    (instances,) = predict(model, item | {"resolution": 4.0})
    instances = instances[instances.scores > 0.5]
    assert sorted(instances.pred_classes.tolist()) == [0, 1, 2]
    truth = np.kron(label_map, np.ones((8, 8)))
    for mask, cls, mass in zip(instances.pred_masks, instances.pred_classes, instances.pred_masses, strict=True):
        own = truth == int(cls) + 1
        assert (mask.numpy() & own).sum() / (mask.numpy() | own).sum() > 0.8
        # mass_scale 25 is a mask grid of 0.5 px/mm: an image of 4 px/mm at stride 8
        assert mass.item() == pytest.approx([3.0, 5.0, 8.0][int(cls)], rel=0.25)


@pytest.fixture
def busy(build_tiny: Build) -> RAMSES:
    """A network that finds many things."""
    return build_tiny("MODEL.RAMSES.TEST.SCORE_THRESH", 0.0, "MODEL.RAMSES.TEST.NMS_THRESH", 0.9).eval()


def test_a_batch_gives_what_single_images_give(busy: RAMSES) -> None:
    label_maps = (blocks(16, 24, 4), blocks(8, 16, 2), EMPTY)
    items = [training_item(label_map, seed=seed) for seed, label_map in enumerate(label_maps)]
    for item, result in zip(items, predict(busy, *items), strict=True):
        (alone,) = predict(busy, item)
        assert len(alone) == len(result) > 0
        torch.testing.assert_close(alone.scores, result.scores)
        torch.testing.assert_close(alone.pred_masses, result.pred_masses)
        assert (alone.pred_masks ^ result.pred_masks).float().mean() < 1e-4


def test_sides_that_are_no_multiple_of_64(busy: RAMSES) -> None:
    item = {"image": torch.randint(0, 255, (3, 101, 150), dtype=torch.uint8), "height": 333, "width": 495}
    (instances,) = predict(busy, item)
    assert instances.image_size == (333, 495) and instances.pred_masks.shape[1:] == (333, 495)
    assert (instances.pred_boxes.tensor[:, 2] <= 495).all() and (instances.pred_boxes.tensor[:, 3] <= 333).all()


def test_grams_follow_the_resolution(busy: RAMSES) -> None:
    item = training_item(blocks(16, 24, 4))
    coarse, fine = (predict(busy, item | {"resolution": r})[0].pred_masses for r in (2.0, 4.0))
    torch.testing.assert_close(coarse, 4 * fine)


def test_unknown_resolution_is_nan_and_one_warning(busy: RAMSES, caplog: pytest.LogCaptureFixture) -> None:
    item = training_item(blocks(16, 24, 4))
    del item["resolution"]
    with caplog.at_level(logging.WARNING):
        results = predict(busy, item, item)
    assert all(len(r) and r.pred_masses.isnan().all() for r in results)
    assert len(caplog.messages) == 1 and "INPUT.RESOLUTION" in caplog.messages[0]


def test_a_resolution_that_is_no_number_falls_back_to_the_config(build_tiny: Build) -> None:
    model = build_tiny("MODEL.RAMSES.TEST.SCORE_THRESH", 0.0, "INPUT.RESOLUTION", 4.0)
    item = training_item(blocks(16, 24, 4))
    (known,) = predict(model, item | {"resolution": 4.0})
    for unknown in (math.nan, 0.0, None):
        (result,) = predict(model, item | {"resolution": unknown})
        assert len(result) and torch.equal(result.pred_masses, known.pred_masses)


def test_half_precision_counts_in_fp32(build_tiny: Build, busy: RAMSES) -> None:
    item = training_item(blocks(16, 24, 4))
    with torch.autocast("cpu", dtype=torch.float16):
        (result,) = predict(busy, item)
    assert len(result) and result.scores.dtype == result.pred_masses.dtype == torch.float32
    assert result.scores.isfinite().all() and result.pred_masses.isfinite().all()
    (exact,) = predict(busy, item)
    assert result.scores[0].item() == pytest.approx(exact.scores[0].item(), abs=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16), EventStorage():
        losses = build_tiny()([item])
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_masks_lie_where_the_training_masks_were(build_tiny: Build) -> None:
    """A particle's mask, reduced for training and drawn perfectly by the network, comes back where it was."""
    frame = build_tiny().grid_frame({"image": torch.zeros(3, 128, 192)})
    rows, cols = np.ogrid[:128, :192]
    rng, shifts = np.random.default_rng(0), []
    for row, col in rng.uniform(50, 70, (200, 2)):  # one mask alone is luck: its edge is rounded to the grid
        truth = np.hypot(rows - row, cols - col) < 40
        grid = torch.from_numpy(truth[4::8, 4::8]).float()  # nearest-exact, as the mapper does
        crop, x, y = paste_in_box(grid, frame, 0.5)
        found = np.nonzero(crop)
        shifts.append([y + found[0].mean() - row, x + found[1].mean() - col])
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.15  # half a pixel up and left without the offset


def test_grids_have_the_aspect_ratio_of_the_level_or_are_square(build_tiny: Build) -> None:
    images = torch.rand(1, 3, 64, 192)
    for is_square, expected in ((False, [(8, 24), (4, 12), (3, 8), (1, 4)]), (True, [(g, g) for g in (24, 12, 8, 4)])):
        cells, *_, shapes = build_tiny("MODEL.RAMSES.SQUARE_GRIDS", is_square).raw_outputs(images)
        assert shapes == expected and cells.kernels.shape[1] == sum(rows * cols for rows, cols in shapes)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("MODEL.FPN.STYLE", "nosuch", "nosuch"),
        ("MODEL.FPN.IN_FEATURES", ["res3", "res9"], "res9"),
        ("MODEL.RAMSES.MASK_STRIDE", 4, "stride 8"),
        ("MODEL.RAMSES.GRID_SIZES", [24, 12], "one of each per pyramid level"),
        ("MODEL.RAMSES.GRID_SIZES", [0, 12, 8, 4], "from 1 on"),
        ("MODEL.RAMSES.LEVEL_RULE", "nosuch", "nosuch"),
        (FEATURES, ["p3", "p4", "p5", "p9"], "p9"),
        (FEATURES, [], "empty"),
        (MASK_FEATURES, [], "empty"),
        ("MODEL.RAMSES.MASK_HEAD.COORDINATES", "nosuch", "nosuch"),
        ("MODEL.RAMSES.MASK_HEAD.OUTPUT_LEVEL", 3, "3"),
        ("MODEL.RAMSES.HEAD.PRIOR_PROB", 0.0, "above 0 and below 1"),
        ("MODEL.RAMSES.HEAD.KERNEL_SIZE", 2, "odd"),
        ("MODEL.RAMSES.HEAD.CHANNELS", 0, "from 1 on"),
        ("MODEL.RAMSES.TEST.NMS", "fuzzy", "fuzzy"),
        ("MODEL.RAMSES.TEST.MASK_FORMAT", "polygon", "polygon"),
        ("MODEL.RAMSES.LOSS.MASS_TYPE", "l7", "l7"),
    ],
)
def test_settings_that_do_not_fit_are_named(build_tiny: Build, key: str, value: Any, named: str) -> None:
    with pytest.raises(RamsesError) as error:
        build_tiny(key, value)
    message = str(error.value)
    assert "\n" not in message and named in message and key.rpartition(".")[2] in message


def test_settings_that_do_not_fit_one_another(build_tiny: Build) -> None:
    for overrides, named in (
        (["MODEL.FPN.STYLE", "detectron2", "MODEL.FPN.EXTRA_LEVELS", 2], "EXTRA_LEVELS"),
        ([*TIMM, (2, 3), "MODEL.FPN.EXTRA_LEVELS", 1, "MODEL.FPN.STYLE", "ramses"], "res5"),
        (["MODEL.BACKBONE.NAME", "build_convnextv2_fpn_backbone", "MODEL.RAMSES.NORM", "GN"], "NORM_GROUPS"),
    ):
        with pytest.raises(RamsesError, match=named):
            build_tiny(*overrides)


def test_weights_of_a_backbone_are_read_when_the_network_is_built(tiny_cfg: CfgNode, tmp_path: Path) -> None:
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
