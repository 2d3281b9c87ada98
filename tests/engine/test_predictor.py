"""Prediction from Python, with our predictor and with Detectron2's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.utils.visualizer import Visualizer

from ramses_d2.config import load_config
from ramses_d2.engine.predictor import RamsesPredictor, run_settings
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.postprocess import InferenceSettings

TINY_YAML = str(Path(__file__).parents[1] / "ramses_tiny.yaml")


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    weights = str(tmp_path / "model.pth")
    cfg = load_config(TINY_YAML, ["MODEL.RAMSES.TEST.SCORE_THRESH", "0.0", "MODEL.WEIGHTS", weights])
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, weights)
    return cfg


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (100, 170, 3), dtype=np.uint8)


def test_resolution(cfg: CfgNode, image: np.ndarray) -> None:
    unknown = DefaultPredictor(cfg)(image)["instances"]
    assert len(unknown) and unknown.image_size == (100, 170) and unknown.pred_masses.isnan().all()
    cfg.INPUT.RESOLUTION = 4.0
    known = DefaultPredictor(cfg)(image)["instances"]
    assert known.pred_masses.isfinite().all() and (known.pred_masses > 0).all()
    predictor = RamsesPredictor(cfg)
    ours = predictor(image)["instances"]
    assert torch.equal(ours.scores, known.scores) and torch.equal(ours.pred_masses, known.pred_masses)
    torch.testing.assert_close(ours.pred_masses, 4 * predictor(image, resolution=8.0)["instances"].pred_masses)
    for wrong in (0, -1.0):
        with pytest.raises(RamsesError, match=f"resolution={wrong}"):
            predictor(image, resolution=wrong)


def test_colour_order(cfg: CfgNode, image: np.ndarray) -> None:
    """The predictor takes BGR like cv2.imread; a network trained on BGR gets it as it is."""
    rgb = RamsesPredictor(cfg)(image)["instances"].scores
    cfg.INPUT.FORMAT = "BGR"
    assert torch.equal(RamsesPredictor(cfg)(np.ascontiguousarray(image[:, :, ::-1]))["instances"].scores, rgb)


def test_one_call_can_have_settings_of_its_own(cfg: CfgNode, image: np.ndarray) -> None:
    predictor = RamsesPredictor(cfg)

    def found(**settings: float) -> int:
        return len(predictor(image, **settings)["instances"])

    everything = predictor(image)["instances"]
    assert len(everything) > 1 and found(max_detections=1) == 1
    assert found(score_threshold=0.9) == found(min_area=10**6) == found(seg_threshold=1.0) == 0
    low = {"score_threshold": 1e-6, "nms_threshold": 1.0}
    assert found(**low, point_nms=True) < found(**low)
    soft = predictor(image, resolution=4.0, use_binary_masks=False)["instances"]
    assert not torch.equal(soft.pred_masses, predictor(image, resolution=4.0)["instances"].pred_masses)
    assert torch.equal(predictor(image)["instances"].scores, everything.scores)  # for one call only
    for name, value in (("score_threshold", 1.5), ("nms_threshold", -0.1), ("min_area", -1)):
        with pytest.raises(RamsesError, match=name):
            found(**{name: value})


def test_the_nms_threshold_of_matrix_nms_is_a_score(cfg: CfgNode) -> None:
    settings = InferenceSettings.from_config(cfg)
    assert settings.override(nms_threshold=0.3).nms_thresh == 0.3
    matrix = dataclasses.replace(settings, nms="matrix").override(nms_threshold=0.3)
    assert matrix.nms_min_score == 0.3 and matrix.nms_thresh == settings.nms_thresh


def test_images_of_any_shape(cfg: CfgNode) -> None:
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 2048, 3072  # as published, where the coarsest levels have a row
    cfg.MODEL.RAMSES.TEST.SCORE_THRESH = 0.9  # nothing to paste
    predictor = RamsesPredictor(cfg)
    for shape in ((20, 1228, 3), (1228, 12, 3), (1, 1000, 3)):
        assert predictor(np.zeros(shape, np.uint8))["instances"].image_size == shape[:2]


def test_a_wrong_image_is_one_line(cfg: CfgNode) -> None:
    predictor = RamsesPredictor(cfg)
    for wrong, named in (
        (None, "None.*cv2.imread"),
        (np.zeros((64, 64), np.uint8), r"\(64, 64\) array of uint8"),
        (np.zeros((64, 64, 1), np.uint8), r"\(64, 64, 1\) array of uint8"),
        (np.zeros((64, 64, 4), np.uint8), r"\(64, 64, 4\)"),
        (np.zeros((64, 64, 3, 1), np.uint8), r"\(64, 64, 3, 1\)"),
        (np.zeros((0, 64, 3), np.uint8), r"\(0, 64, 3\)"),
        (np.zeros((64, 0, 3), np.uint8), r"\(64, 0, 3\)"),
        (np.zeros((64, 64, 3), np.uint16), "array of uint16"),
        (np.zeros((64, 64, 3)), "array of float64"),
        (np.zeros((1, 1000, 3), np.uint8), "1 x 1000 px .H x W. is too thin .* 192 px"),
    ):
        with pytest.raises(RamsesError, match=named):
            predictor(wrong)


def test_images_of_float32(cfg: CfgNode, image: np.ndarray) -> None:
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 100, 170  # the two types are resized in two ways
    predictor = RamsesPredictor(cfg)
    scores = predictor(image)["instances"].scores
    torch.testing.assert_close(predictor(image.astype(np.float32))["instances"].scores, scores)


def test_weights_must_fit_and_the_file_of_a_backbone_is_not_needed(cfg: CfgNode, image: np.ndarray) -> None:
    cfg.MODEL.CONVNEXTV2.WEIGHTS = "gone.pth"
    assert len(RamsesPredictor(cfg)(image)["instances"])
    cfg.MODEL.RAMSES.NUM_CLASSES = 4
    with pytest.raises(RamsesError, match="does not fit this config"):
        RamsesPredictor(cfg)


def test_settings_of_a_run_are_what_predictions_depend_on(cfg: CfgNode) -> None:
    settings = run_settings(cfg)
    for key, value in {"SOLVER.BASE_LR": 1.0, "OUTPUT_DIR": "x", "MODEL.DEVICE": "cuda", "SEED": 7}.items():
        cfg.merge_from_list([key, value])
    assert run_settings(cfg) == settings
    cfg.MODEL.RAMSES.TEST.NMS_THRESH = 0.123
    assert run_settings(cfg) != settings


def test_detectron2_draws_the_result(cfg: CfgNode, image: np.ndarray) -> None:
    cfg.DATASETS.TEST = ("not registered here",)
    cfg.MODEL.RAMSES.CLASS_NAMES = ["Ra", "Rb", "Rc"]
    predictor = RamsesPredictor(cfg)
    assert predictor.metadata.thing_classes == ["Ra", "Rb", "Rc"]
    drawn = Visualizer(image[:, :, ::-1], predictor.metadata).draw_instance_predictions(predictor(image)["instances"])
    assert drawn.get_image().shape == image.shape and (drawn.get_image() != image[:, :, ::-1]).any()
