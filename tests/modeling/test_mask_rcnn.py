"""Mask R-CNN with the inputs, settings and outputs of RAMSES."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from ramses_d2.config import load_config
from ramses_d2.data.folder import load_folder
from ramses_d2.data.mapper import RamsesDatasetMapper
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.mask_rcnn import MaskRCNN
from tests.tools.command_line import ROOT

LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
# Masks of an untrained head are about 0.5 everywhere
UNTRAINED = ["MODEL.RAMSES.TEST.MASK_THRESH", "0.3"]
NO_DOWNLOAD = ["MODEL.TIMM.WEIGHTS", "", "MODEL.DEVICE", "cpu"]
CONFIGS = sorted((ROOT / "configs/MaskRCNN").glob("mask_rcnn_*.yaml"))
Folder = Callable[..., Path]


def tiny(*overrides: str) -> CfgNode:
    return load_config(str(ROOT / "tests/mask_rcnn_tiny.yaml"), list(overrides))


def items_of(folder: Path, cfg: CfgNode) -> list[dict[str, Any]]:
    mapper = RamsesDatasetMapper(cfg, is_train=True)
    return [mapper(record) for record in load_folder(folder)[0]]


def losses_of(model: MaskRCNN, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    model.train()
    with EventStorage():
        return model(items)


def images() -> list[dict[str, Any]]:
    """Two images of one size and one of another."""
    return [
        {"image": torch.randint(0, 255, (3, *size), dtype=torch.uint8), "height": size[0], "width": size[1]}
        for size in ((128, 192), (128, 192), (96, 128))
    ]


@pytest.fixture(scope="module")
def model() -> MaskRCNN:
    torch.manual_seed(0)
    network = build_model(tiny(*UNTRAINED))
    network.eval()
    return network


def predict(model: MaskRCNN, items: list[dict[str, Any]], **overrides: Any) -> list[Any]:
    with torch.no_grad():
        return [output["instances"] for output in model.inference(items, model.settings.override(**overrides))]


def test_the_gradient_reaches_every_part(tiny_folder: Folder) -> None:
    cfg = tiny()
    network = build_model(cfg)
    losses = losses_of(network, items_of(tiny_folder(), cfg))
    assert set(losses) == LOSSES and all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    # timm's residual blocks begin as identities, so that nothing of a block but its last norm has a gradient yet
    parameters = {name: p for name, p in network.named_parameters() if ".layer" not in name}
    assert not [name for name, parameter in parameters.items() if not parameter.grad.any()]
    assert any("bottom_up" in name for name in parameters)


def test_images_without_objects(tiny_folder: Folder) -> None:
    """None at all, and one beside a full one."""
    cfg = tiny()
    network = build_model(cfg)
    for counts in ((0, 0), (0, 5)):
        items = items_of(tiny_folder(name=f"d{counts[1]}", count=counts), cfg)
        assert [len(item["instances"]) for item in items] == list(counts)
        losses = losses_of(network, items)
        network.zero_grad()
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
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
    together = predict(model, items)
    assert all(len(found) > 0 for found in together)
    for item, found in zip(items, together, strict=True):
        (alone,) = predict(model, [item])
        assert alone.image_size == found.image_size == (item["height"], item["width"])
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
    torch.manual_seed(0)
    items = images()[:1]
    counts = {}
    for agnostic in ("False", "True"):
        torch.manual_seed(0)
        nms = ["MODEL.RAMSES.TEST.NMS_CLASS_AGNOSTIC", agnostic]
        network = build_model(tiny(*nms, *UNTRAINED, "TEST.DETECTIONS_PER_IMAGE", "999"))
        (found,) = predict(network.eval(), items)
        counts[agnostic] = len(found)
    assert counts["True"] < counts["False"]


def test_classes_and_thresholds_are_set_once() -> None:
    cfg = tiny("MODEL.RAMSES.NUM_CLASSES", "4", "MODEL.RAMSES.TEST.SCORE_THRESH", "0.3")
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST) == (4, 0.3)
    cfg.MODEL.RAMSES.NUM_CLASSES = 2  # in a script
    heads = build_model(cfg).roi_heads
    assert heads.num_classes == 2 and heads.box_predictor.cls_score.out_features == 3


@pytest.mark.parametrize(
    "overrides",
    [
        ["MODEL.MASK_ON", "False"],
        ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"],
    ],
)
def test_other_heads_are_an_error(overrides: list[str]) -> None:
    with pytest.raises(RamsesError, match="MaskRCNN needs MODEL.MASK_ON True"):
        build_model(tiny(*overrides))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_trains_and_predicts_a_small_image(path: Path, tiny_folder: Folder) -> None:
    cfg = load_config(str(path), [*NO_DOWNLOAD, "MODEL.RAMSES.NUM_CLASSES", "3"])
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (128,), 192
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE, cfg.TEST.DETECTIONS_PER_IMAGE = 16, 5
    network = build_model(cfg)
    losses = losses_of(network, items_of(tiny_folder(sizes=((64, 96),)), cfg))
    assert set(losses) == LOSSES and all(torch.isfinite(loss) for loss in losses.values())
    (found,) = predict(network.eval(), images()[:1])
    assert {"pred_boxes", "scores", "pred_classes", "pred_masks"} == set(found.get_fields())
    copy = CfgNode.load_cfg(cfg.dump())
    assert copy.MODEL.ROI_HEADS.NUM_CLASSES == copy.MODEL.RAMSES.NUM_CLASSES == 3
