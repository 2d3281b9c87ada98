"""Mask R-CNN: mask targets and pasted masks are Detectron2's, inputs, settings and outputs those of RAMSES."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from ramses_d2.config import load_config
from ramses_d2.data.folder import load_folder
from ramses_d2.data.mapper import RamsesDatasetMapper
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.mask_rcnn import LabelMapMasks, MaskRCNN, paste_roi_mask, to_image
from ramses_d2.modeling.postprocess import InferenceSettings
from tests.tools.command_line import ROOT

LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
# Masks of an untrained head are about 0.5 everywhere
UNTRAINED = ["MODEL.RAMSES.TEST.MASK_THRESH", "0.3"]
NO_DOWNLOAD = ["MODEL.TIMM.WEIGHTS", "", "MODEL.DEVICE", "cpu"]
CONFIGS = sorted((ROOT / "configs/MaskRCNN").glob("mask_rcnn_*.yaml"))
Folder = Callable[..., Path]


# ---- mask targets


def discs() -> LabelMapMasks:
    """Touching ellipses with labels 3, 5 and 9; 7 is an object that is not asked for."""
    y, x = torch.meshgrid(torch.arange(96), torch.arange(140), indexing="ij")
    label_map = torch.zeros(96, 140, dtype=torch.int32)
    ellipses = {3: (30, 30, 22, 28), 5: (40, 75, 25, 18), 7: (80, 20, 9, 9), 9: (70, 120, 8, 19)}
    for label, (cy, cx, ry, rx) in ellipses.items():
        label_map[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1] = label
    return LabelMapMasks(label_map, torch.tensor([3, 5, 9]))


def bit_masks(masks: LabelMapMasks) -> BitMasks:
    return BitMasks(masks.label_map[None] == masks.labels[:, None, None])


@pytest.mark.parametrize("mask_size", [14, 28])
def test_crops_are_those_of_bit_masks(mask_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = discs()
    tight = bit_masks(masks).get_bounding_boxes().tensor
    for jitter in (0.0, 4.0):  # proposals are not the true boxes, and reach into the neighbours
        boxes = tight + jitter * (torch.rand(3, 4) - 0.5)
        found, expected = masks.crop_and_resize(boxes, mask_size), bit_masks(masks).crop_and_resize(boxes, mask_size)
        assert found.dtype == torch.bool and found.shape == (3, mask_size, mask_size)
        iou = (found & expected).flatten(1).sum(1) / (found | expected).flatten(1).sum(1)
        assert iou.min() > 0.97, iou
    monkeypatch.setattr("ramses_d2.modeling.mask_rcnn._CHUNK", 1)  # large boxes are taken in parts
    assert torch.equal(masks.crop_and_resize(boxes, mask_size), found)


def test_the_very_samples_of_roi_align() -> None:
    """Where ROIAlign takes 2 x 2 samples of a bin itself, nothing differs."""
    masks = discs()
    boxes = torch.tensor([[2.0, 8.0, 44.0, 50.0], [57.3, 15.2, 94.1, 66.7], [95.0, 60.0, 137.0, 80.6]])
    bins = (boxes[:, 2:] - boxes[:, :2]) / 14
    different = (masks.crop_and_resize(boxes, 14) != bit_masks(masks).crop_and_resize(boxes, 14)).flatten(1).sum(1)
    assert (different[(bins.ceil() == 2).all(dim=1)] == 0).all(), (different, bins)
    chosen, boxes = masks[torch.tensor([0])], torch.tensor([[10.0, 12.0, 32.0, 36.0]])
    assert torch.equal(chosen.crop_and_resize(boxes, 14), bit_masks(chosen).crop_and_resize(boxes, 14))


def test_a_bin_that_is_half_object_is_set() -> None:
    label_map = torch.zeros(8, 8, dtype=torch.int32)
    label_map[:, :3] = 1
    masks, box = LabelMapMasks(label_map, torch.tensor([1])), torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    assert masks.crop_and_resize(box, 4)[0, 0].tolist() == [True, True, False, False]
    assert torch.equal(masks.crop_and_resize(box, 4), bit_masks(masks).crop_and_resize(box, 4))


def test_selecting_copies_no_map() -> None:
    masks = discs()
    for index, labels in ((1, [5]), (slice(1, None), [5, 9]), (torch.tensor([2, 0, 0]), [9, 3, 3])):
        assert masks[index].labels.tolist() == labels and masks[index].label_map is masks.label_map
    assert masks[torch.tensor([True, False, True])].labels.tolist() == [3, 9] and len(masks) == 3
    assert masks.to("cpu").label_map.dtype == torch.int32 and masks.device == torch.device("cpu")
    instances = Instances((96, 140), gt_boxes=Boxes(torch.zeros(3, 4)), gt_masks=masks)
    assert instances[torch.tensor([2, 2, 1])].to("cpu").gt_masks.labels.tolist() == [9, 9, 5]
    assert len(instances[0].gt_masks) == 1 and "num_instances=3" in repr(masks)


def test_boxes_and_emptiness() -> None:
    masks = LabelMapMasks(discs().label_map, torch.tensor([3, 5, 9, 44]))
    expected = bit_masks(masks)
    assert torch.equal(masks.get_bounding_boxes().tensor, expected.get_bounding_boxes().tensor)
    assert masks.nonempty().tolist() == expected.nonempty().tolist() == [True, True, True, False]
    none = LabelMapMasks(torch.zeros(8, 9, dtype=torch.int32), torch.zeros(0, dtype=torch.int64))
    assert none.crop_and_resize(torch.zeros(0, 4), 28).shape == (0, 28, 28)
    assert len(none.get_bounding_boxes()) == 0 and none.nonempty().shape == (0,)


# ---- masks of the image

# fmt: off
BOXES = [
    [3.2, 4.7, 30.1, 22.9], [0.0, 0.0, 80.0, 60.0], [70.4, 50.2, 80.0, 60.0],
    [10.0, 10.0, 11.0, 11.0], [5.0, 5.0, 5.0, 9.0],
]
# fmt: on


def soft_masks(count: int) -> torch.Tensor:
    return torch.nn.functional.interpolate(torch.rand(count, 1, 5, 5), size=(28, 28), mode="bilinear")


def settings(**changes: Any) -> InferenceSettings:
    return dataclasses.replace(InferenceSettings.from_config(tiny()), **changes)


def test_pasting_is_that_of_detectron2() -> None:
    masks = soft_masks(4)[:, 0]
    expected = paste_masks_in_image(masks, Boxes(torch.tensor(BOXES[:4])), (60, 80), 0.5).numpy()
    assert expected.any(axis=(1, 2)).sum() >= 3
    for mask, box, whole in zip(masks, BOXES[:4], expected, strict=True):
        crop, x, y = paste_roi_mask(mask, box, (60, 80), 0.5)
        found = np.zeros((60, 80), bool)
        found[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        assert np.count_nonzero(found != whole) <= 1  # a probability of exactly 0.5, give or take a rounding
        assert not crop.size or (crop[0].any() and crop[-1].any() and crop[:, 0].any() and crop[:, -1].any())
    assert paste_roi_mask(torch.ones(28, 28), BOXES[4], (60, 80), 0.5)[0].size == 0  # an empty box
    assert paste_roi_mask(torch.zeros(28, 28), BOXES[0], (60, 80), 0.5)[0].size == 0


def found_instances() -> Instances:
    found = Instances((60, 80), pred_boxes=Boxes(torch.tensor(BOXES)), scores=torch.linspace(0.9, 0.5, 5))
    found.pred_classes = torch.tensor([0, 1, 2, 0, 1])
    found.pred_masks = torch.cat((soft_masks(3), torch.ones(2, 1, 28, 28)))
    return found


@pytest.mark.parametrize("size", [(60, 80), (240, 160)])
def test_both_formats_hold_the_same_masks(size: tuple[int, int]) -> None:
    found = found_instances()
    bits, rles = (to_image(found, *size, settings(mask_format=name)) for name in ("bitmask", "rle"))
    assert len(bits) == len(rles) == 4 and bits.image_size == size  # the empty box is gone
    for mask, rle in zip(bits.pred_masks, rles.pred_masks, strict=True):
        assert np.array_equal(mask_utils.decode(rle).astype(bool), mask.numpy())
    scale = torch.tensor([size[1] / 80, size[0] / 60] * 2)
    assert torch.allclose(bits.pred_boxes.tensor, torch.tensor(BOXES[:4]) * scale)


def test_small_masks_go_and_nothing_may_be_left() -> None:
    for size in ((60, 80), (240, 320)):  # MIN_AREA is in px of the network input, whatever the size of the image
        kept = to_image(found_instances(), *size, settings(min_area=2))
        assert kept.pred_classes.tolist() == [0, 1, 2]  # the 1 px one is gone
    nothing = to_image(found_instances()[torch.zeros(5, dtype=torch.bool)], 30, 40, settings())
    assert len(nothing) == 0 and nothing.pred_masks.shape == (0, 30, 40)


# ---- the network


def tiny(*overrides: str) -> CfgNode:
    return load_config(str(ROOT / "tests/mask_rcnn_tiny.yaml"), list(overrides))


def items_of(folder: Path, cfg: CfgNode) -> list[dict[str, Any]]:
    mapper = RamsesDatasetMapper(cfg, is_train=True)
    return [mapper(dataset_dict) for dataset_dict in load_folder(folder)[0]]


def losses_of(model: MaskRCNN, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    with EventStorage():
        losses = model.train()(items)
    assert set(losses) == LOSSES and all(torch.isfinite(loss) for loss in losses.values())
    return losses


def images() -> list[dict[str, Any]]:
    """Two images of one size and one of another."""
    return [
        {"image": torch.randint(0, 255, (3, *size), dtype=torch.uint8), "height": size[0], "width": size[1]}
        for size in ((128, 192), (128, 192), (96, 128))
    ]


@pytest.fixture(scope="module")
def model() -> MaskRCNN:
    torch.manual_seed(0)
    return build_model(tiny(*UNTRAINED)).eval()


def predict(model: MaskRCNN, items: list[dict[str, Any]], **overrides: Any) -> list[Any]:
    with torch.no_grad():
        return [output["instances"] for output in model.inference(items, model.settings.override(**overrides))]


def test_the_gradient_reaches_every_part(tiny_folder: Folder) -> None:
    network = build_model(cfg := tiny())
    losses = losses_of(network, items_of(tiny_folder(), cfg))
    assert all(loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    # timm's residual blocks begin as identities, so that nothing of a block but its last norm has a gradient yet
    parameters = {name: p for name, p in network.named_parameters() if ".layer" not in name}
    assert not [name for name, parameter in parameters.items() if not parameter.grad.any()]
    assert any("bottom_up" in name for name in parameters)


@pytest.mark.parametrize("counts", [(0, 0), (0, 5)])
def test_images_without_objects(tiny_folder: Folder, counts: tuple[int, int]) -> None:
    network = build_model(cfg := tiny())
    items = items_of(tiny_folder(count=counts), cfg)
    assert [len(item["instances"]) for item in items] == list(counts)
    losses = losses_of(network, items)
    sum(losses.values()).backward()
    assert bool(losses["loss_mask"] > 0) == bool(sum(counts))
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


def test_inputs_have_masks_of_a_label_map(tiny_folder: Folder) -> None:
    cfg = tiny("INPUT.AUG.SCALE", "(1.0, 1.0)", "INPUT.AUG.ROTATION", "0.0")
    (item, _) = items_of(tiny_folder(), cfg)
    instances = item["instances"]
    assert "label_map" not in item and len(instances.gt_masks) == len(instances) == 6
    assert instances.gt_masks.image_size == tuple(item["image"].shape[-2:])
    assert torch.equal(instances.gt_masks.get_bounding_boxes().tensor, instances.gt_boxes.tensor)


def test_a_batch_is_its_images_one_by_one(model: MaskRCNN) -> None:
    items = images()
    for item, found in zip(items, predict(model, items), strict=True):
        (alone,) = predict(model, [item])
        assert len(found) and alone.image_size == found.image_size == (item["height"], item["width"])
        assert torch.allclose(alone.scores, found.scores, atol=1e-5)
        assert torch.allclose(alone.pred_boxes.tensor, found.pred_boxes.tensor, atol=1e-3)


def test_settings_of_a_call(model: MaskRCNN) -> None:
    items = images()[:1]
    (everything,) = predict(model, items)
    assert 5 < len(everything) <= 20  # TEST.DETECTIONS_PER_IMAGE
    assert torch.equal(everything.scores, everything.scores.sort(descending=True).values)
    middle = float(everything.scores.median())
    (sure,) = predict(model, items, score_threshold=middle)
    assert 0 < len(sure) < len(everything) and sure.scores.min() > middle
    assert len(predict(model, items, max_detections=3)[0]) == 3
    largest = int(everything.pred_masks.flatten(1).sum(1).max())
    assert len(predict(model, items, min_area=largest)[0]) == 0
    few, many = (len(predict(model, items, nms_threshold=t, max_detections=999)[0]) for t in (0.05, 0.9))
    assert few < many
    (strict,) = predict(model, items, seg_threshold=0.5)
    assert strict.pred_masks.sum() < everything.pred_masks.sum()


def test_one_class_an_object() -> None:
    items, counts = images()[:1], {}
    for is_agnostic in (False, True):
        torch.manual_seed(0)
        nms = ["MODEL.RAMSES.TEST.NMS_CLASS_AGNOSTIC", str(is_agnostic), "TEST.DETECTIONS_PER_IMAGE", "999"]
        counts[is_agnostic] = len(predict(build_model(tiny(*nms, *UNTRAINED)).eval(), items)[0])
    assert counts[True] < counts[False]


def test_classes_and_thresholds_are_set_once() -> None:
    cfg = tiny("MODEL.RAMSES.NUM_CLASSES", "4", "MODEL.RAMSES.TEST.SCORE_THRESH", "0.3")
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST) == (4, 0.3)
    cfg.MODEL.RAMSES.NUM_CLASSES = 2  # in a script
    heads = build_model(cfg).roi_heads
    assert heads.num_classes == 2 and heads.box_predictor.cls_score.out_features == 3


def test_other_heads_are_an_error() -> None:
    cascade = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"]
    for overrides in (["MODEL.MASK_ON", "False"], cascade):
        with pytest.raises(RamsesError, match="MODEL.MASK_ON True"):
            build_model(tiny(*overrides))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_trains_and_predicts_a_small_image(path: Path, tiny_folder: Folder) -> None:
    cfg = load_config(str(path), [*NO_DOWNLOAD, "MODEL.RAMSES.NUM_CLASSES", "3"])
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (128,), 192
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE, cfg.TEST.DETECTIONS_PER_IMAGE = 16, 5
    network = build_model(cfg)
    losses_of(network, items_of(tiny_folder(sizes=((64, 96),)), cfg))
    (found,) = predict(network.eval(), images()[:1])
    assert {"pred_boxes", "scores", "pred_classes", "pred_masks"} == set(found.get_fields())
    copy = CfgNode.load_cfg(cfg.dump())
    assert copy.MODEL.ROI_HEADS.NUM_CLASSES == copy.MODEL.RAMSES.NUM_CLASSES == 3
