"""The whole network: training and inference on ordinary, empty and crowded images."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

from ramses_d2.errors import RamsesError
from ramses_d2.modeling.meta_arch import RAMSES
from ramses_d2.modeling.postprocess import paste_in_box
from tests.modeling.conftest import blocks, training_item

LOSSES = {"loss_cls", "loss_mask", "loss_mass"}
Build = Callable[..., RAMSES]
EMPTY = np.zeros((16, 24), np.int64)


def losses_and_gradients(model: RAMSES, items: list[dict]) -> dict[str, torch.Tensor]:
    with EventStorage():
        losses = model(items)
    model.zero_grad()
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    # Every parameter takes part, or DistributedDataParallel would wait for ever
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())
    return losses


@pytest.mark.parametrize(
    ("counts", "mass_is_zero"), [((0, 0), True), ((0, 3), False), ((1,), False), ((5, 2), False)], ids=str
)
def test_training_on_empty_half_empty_and_ordinary_batches(
    build_tiny: Build, counts: tuple[int, ...], mass_is_zero: bool
) -> None:
    items = [training_item(blocks(16, 24, count), seed=i) for i, count in enumerate(counts)]
    losses = losses_and_gradients(build_tiny(), items)
    assert losses.keys() == LOSSES
    assert (losses["loss_mass"].item() == 0) == mass_is_zero and (losses["loss_mask"].item() == 0) == mass_is_zero


def test_training_and_inference_with_800_objects(build_tiny: Build) -> None:
    model = build_tiny("MODEL.RAMSES.GRID_SIZES", [96, 48, 24, 12], "MODEL.RAMSES.TEST.SCORE_THRESH", 0.0)
    item = training_item(blocks(80, 120, 800, size=2))
    losses_and_gradients(model, [item])
    model.eval()
    with torch.no_grad():
        instances = model([item])[0]["instances"]
    assert 0 < len(instances) <= 1000


def test_more_objects_than_positives_each_keep_a_cell(build_tiny: Build) -> None:
    model = build_tiny("MODEL.RAMSES.LOSS.MAX_POS_PER_IMAGE", 3)
    seen = []
    head = model.shared_head.kernel_out.register_full_backward_hook(lambda *args: seen.append(args[2][0]))
    losses_and_gradients(model, [training_item(blocks(16, 24, 10, size=3))])
    head.remove()
    cells = sum(int((grad.abs().sum(1) > 0).sum()) for grad in seen)
    assert cells == 10


def test_unknown_masses_give_no_mass_loss(build_tiny: Build) -> None:
    item = training_item(blocks(16, 24, 2), masses=[math.nan, math.nan])
    assert losses_and_gradients(build_tiny(), [item])["loss_mass"].item() == 0


def test_unknown_resolution_in_training_gives_no_mass_loss(build_tiny: Build) -> None:
    item = training_item(blocks(16, 24, 2)) | {"mass_scale": math.nan}
    assert losses_and_gradients(build_tiny(), [item])["loss_mass"].item() == 0


def test_plain_solov2_has_no_masses(build_tiny: Build) -> None:
    model = build_tiny("MODEL.RAMSES.MASS.ENABLED", False, "MODEL.RAMSES.TEST.SCORE_THRESH", 0.0)
    item = training_item(blocks(16, 24, 2))
    assert losses_and_gradients(model, [item]).keys() == LOSSES - {"loss_mass"}
    model.eval()
    with torch.no_grad():
        assert not model([item])[0]["instances"].has("pred_masses")


def test_a_few_steps_learn_the_image(build_tiny: Build) -> None:
    """Outlines, classes and grams of three blocks, from nothing."""
    label_map = np.zeros((16, 24), np.int64)
    label_map[2:7, 2:8], label_map[9:14, 3:10], label_map[4:12, 14:21] = 1, 2, 3
    item = training_item(label_map, masses=[3.0, 5.0, 8.0])
    model = build_tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(100):
        losses_and_gradients(model, [item])
        optimizer.step()
    model.eval()
    with torch.no_grad():
        instances = model([item | {"resolution": 4.0}])[0]["instances"]
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


def predict(model: RAMSES, *items: dict) -> list:
    with torch.no_grad():
        return [output["instances"] for output in model(list(items))]


def test_a_batch_gives_what_single_images_give(busy: RAMSES) -> None:
    items = [
        training_item(blocks(16, 24, 4), seed=0),
        training_item(blocks(8, 16, 2), seed=1),
        training_item(EMPTY, seed=2),
    ]
    together = predict(busy, *items)
    for item, result in zip(items, together, strict=True):
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
    assert [record for record in caplog.messages if "INPUT.RESOLUTION" in record] == caplog.messages and len(
        caplog.messages
    ) == 1


def test_a_resolution_that_is_no_number_falls_back_to_the_config(build_tiny: Build) -> None:
    model = build_tiny("MODEL.RAMSES.TEST.SCORE_THRESH", 0.0, "INPUT.RESOLUTION", 4.0).eval()
    item = training_item(blocks(16, 24, 4))
    (known,) = predict(model, item | {"resolution": 4.0})
    for unknown in (math.nan, 0.0, None):
        (result,) = predict(model, item | {"resolution": unknown})
        assert len(result) and torch.equal(result.pred_masses, known.pred_masses)


def test_inference_under_half_precision_counts_in_fp32(busy: RAMSES) -> None:
    item = training_item(blocks(16, 24, 4))
    with torch.autocast("cpu", dtype=torch.float16):
        (result,) = predict(busy, item)
    assert len(result) and result.scores.dtype == result.pred_masses.dtype == torch.float32
    assert result.scores.isfinite().all() and result.pred_masses.isfinite().all()
    (exact,) = predict(busy, item)
    assert result.scores[0].item() == pytest.approx(exact.scores[0].item(), abs=0.02)


def test_masks_lie_where_the_training_masks_were(build_tiny: Build) -> None:
    """A particle's mask, reduced for training and drawn perfectly by the network, comes back where it was."""
    model = build_tiny().eval()
    frame = model.grid_frame({"image": torch.zeros(3, 128, 192)})
    rows, cols = np.ogrid[:128, :192]
    rng = np.random.default_rng(0)
    shifts = []
    for row, col in rng.uniform(50, 70, (200, 2)):  # one mask alone is luck: its edge is rounded to the grid
        truth = np.hypot(rows - row, cols - col) < 40
        grid = torch.from_numpy(truth[4::8, 4::8]).float()  # nearest-exact, as the mapper does
        crop, x, y = paste_in_box(grid, frame, 0.5)
        found = np.nonzero(crop)
        shifts.append([y + found[0].mean() - row, x + found[1].mean() - col])
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.15  # half a pixel up and left without the offset


def test_training_under_autocast(build_tiny: Build) -> None:
    model = build_tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16), EventStorage():
        losses = model([training_item(blocks(16, 24, 4))])
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.RAMSES.MASK_STRIDE", 4), "MASK_STRIDE is 4, but this network's mask grid has stride 8"),
        (("MODEL.RAMSES.GRID_SIZES", [24, 12]), "one of each per pyramid level"),
        (("MODEL.RAMSES.IN_FEATURES", ["p3", "p4", "p5", "p9"]), "no level"),
        (("MODEL.RAMSES.IN_FEATURES", []), r"RAMSES\.IN_FEATURES is empty"),
        (("MODEL.RAMSES.MASK_HEAD.IN_FEATURES", []), r"MASK_HEAD\.IN_FEATURES is empty"),
        (("MODEL.RAMSES.GRID_SIZES", [0, 12, 8, 4]), r"GRID_SIZES is \[0, 12, 8, 4\], use numbers from 1 on"),
        (("MODEL.RAMSES.HEAD.PRIOR_PROB", 0.0), "PRIOR_PROB is 0.0, use a number above 0 and below 1"),
        (("MODEL.RAMSES.HEAD.KERNEL_SIZE", 2), "KERNEL_SIZE is 2, use an odd number"),
        (("MODEL.RAMSES.HEAD.CHANNELS", 0), "HEAD.CHANNELS is 0, use a number from 1 on"),
        (("MODEL.RAMSES.TEST.NMS", "fuzzy"), "TEST.NMS"),
        (("MODEL.RAMSES.TEST.MASK_FORMAT", "polygon"), "MASK_FORMAT"),
        (("MODEL.RAMSES.LOSS.MASS_TYPE", "l7"), "MASS_TYPE"),
    ],
)
def test_settings_that_do_not_fit_are_errors(build_tiny: Build, overrides: tuple, message: str) -> None:
    with pytest.raises(RamsesError, match=message):
        build_tiny(*overrides)
