"""What each config key of the mapper does, and which values it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from PIL import Image

from ramses_d2.config import add_ramses_config
from ramses_d2.data.folder import load_folder
from ramses_d2.data.mapper import RamsesDatasetMapper, training_canvas, training_edges
from ramses_d2.errors import RamsesError

DatasetDict = dict[str, Any]


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_ramses_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (64,), 128
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 128
    return cfg


def test_for_prediction(numbered: list[DatasetDict], cfg: CfgNode) -> None:
    dataset_dict = numbered[3]  # 333 x 222
    Path(dataset_dict["label_file_name"]).unlink()  # not looked at
    output = RamsesDatasetMapper(cfg, is_train=False)(dataset_dict)
    image = np.asarray(Image.open(dataset_dict["file_name"]))
    expected = T.ResizeShortestEdge([96, 96], 128).get_transform(image).apply_image(image)
    assert np.array_equal(output["image"], expected.transpose(2, 0, 1))
    assert set(output) == {"image", "file_name", "image_id", "height", "width", "resolution"}
    assert (output["height"], output["width"]) == (333, 222)


def test_colour_order(tiny_folder: Callable[..., Path], cfg: CfgNode) -> None:
    dataset_dicts, _ = load_folder(tiny_folder())
    outputs = []
    for image_format in ("RGB", "BGR"):
        cfg.INPUT.FORMAT = image_format
        outputs.append(RamsesDatasetMapper(cfg, is_train=False)(dataset_dicts[0])["image"])
    assert torch.equal(outputs[0], outputs[1].flip(0)) and not torch.equal(outputs[0], outputs[1])


def test_every_key_has_an_effect(numbered: list[DatasetDict], cfg: CfgNode) -> None:
    aug = cfg.INPUT.AUG
    aug.FLIP, aug.ROTATION, aug.BRIGHTNESS, aug.CONTRAST, aug.NOISE, aug.SCALE = (
        False,
        0.0,
        0.0,
        0.0,
        0.0,
        (1.0, 1.0),
    )
    dataset_dict = numbered[2]  # 200 x 300
    plain = RamsesDatasetMapper(cfg, is_train=True)(dataset_dict)
    assert plain["image"].shape == (3, 64, 128) and plain["label_map"].shape == (8, 16)
    for key, value in (
        ("INPUT.FIT", "crop"),
        ("INPUT.FIT", "edge"),
        ("INPUT.AUG.FLIP", True),
        ("INPUT.AUG.ROTATION", 30.0),
        ("INPUT.AUG.BRIGHTNESS", 0.3),
        ("INPUT.AUG.CONTRAST", 0.3),
        ("INPUT.AUG.NOISE", 5.0),
        ("INPUT.AUG.SCALE", (0.5, 0.6)),
        ("INPUT.MAX_SIZE_TRAIN", 192),
        ("MODEL.RAMSES.MASK_STRIDE", 4),
    ):
        changed = cfg.clone()
        changed.merge_from_list([key, value])
        np.random.seed(3)
        outputs = [RamsesDatasetMapper(changed, is_train=True)(dataset_dict) for _ in range(4)]
        assert any(
            output["image"].shape != plain["image"].shape
            or not torch.equal(output["image"], plain["image"])
            or output["label_map"].shape != plain["label_map"].shape
            for output in outputs
        ), key


def test_keys_of_the_edge_fit(numbered: list[DatasetDict], cfg: CfgNode) -> None:
    dataset_dict = numbered[2]  # 200 x 300
    cfg.INPUT.FIT, cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.AUG.SCALE = "edge", (50, 60), (1.0, 1.0)

    def sizes() -> set[tuple[int, int]]:
        return {tuple(RamsesDatasetMapper(cfg, is_train=True)(dataset_dict)["image"].shape[1:]) for _ in range(30)}

    assert sizes() == {(50, 75), (60, 90)}
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"
    assert len(sizes()) > 5
    cfg.INPUT.MAX_SIZE_TRAIN = 66
    assert (44, 66) in sizes()

    cfg.INPUT.AUG.merge_from_list(["ROTATION", 0.0, "BRIGHTNESS", 0.0, "CONTRAST", 0.0, "NOISE", 0.0])
    cfg.INPUT.MIN_SIZE_TRAIN = (44, 44)
    flips = {}
    for cfg.INPUT.AUG.VERTICAL_FLIP in (True, False):
        outputs = [RamsesDatasetMapper(cfg, is_train=True)(dataset_dict) for _ in range(30)]
        flips[cfg.INPUT.AUG.VERTICAL_FLIP] = len({output["image"].numpy().tobytes() for output in outputs})
    assert flips == {True: 4, False: 2}


@pytest.mark.parametrize(
    ("sizes", "max_size", "stride", "sampling", "message"),
    [
        ((), 100, 4, "choice", "give one or more sizes"),
        ((50, 0), 100, 4, "choice", "above 0"),
        ((50, 101), 100, 4, "choice", "has 101, above INPUT.MAX_SIZE_TRAIN; raise it from 100"),
        ((50,), 100, 4, "range", "smallest and the largest"),
        ((60, 50), 100, 4, "range", "smallest and the largest"),
        ((50,), 100, 6, "choice", "MASK_STRIDE is 6; it must divide 64"),
        ((50,), 100, 4, "random", "MIN_SIZE_TRAIN_SAMPLING is 'random'"),
    ],
)
def test_edges_that_make_no_sense(
    sizes: tuple[int, ...], max_size: int, stride: int, sampling: str, message: str
) -> None:
    with pytest.raises(RamsesError, match=message):
        training_edges(sizes, max_size, stride, sampling)


@pytest.mark.parametrize(
    ("short", "long", "stride", "message"),
    [
        ((64, 128), 128, 8, "give one value"),
        ((100,), 128, 8, "MIN_SIZE_TRAIN is 100, not a multiple of 64; the nearest is 128"),
        ((64,), 130, 8, "MAX_SIZE_TRAIN is 130, not a multiple of 64; the nearest is 128"),
        ((0,), 128, 8, "MIN_SIZE_TRAIN is 0"),
        ((128,), 64, 8, "swap them"),
        ((64,), 128, 6, "MASK_STRIDE is 6; it must divide 64"),
    ],
)
def test_sizes_the_network_cannot_take(short: tuple[int, ...], long: int, stride: int, message: str) -> None:
    with pytest.raises(RamsesError, match=message):
        training_canvas(short, long, stride)


def test_wrong_config(cfg: CfgNode) -> None:
    cfg.INPUT.FIT = "stretch"
    with pytest.raises(RamsesError, match="INPUT.FIT is 'stretch'"):
        RamsesDatasetMapper(cfg, is_train=True)
    cfg.INPUT.FIT, cfg.INPUT.MIN_SIZE_TRAIN = "pad", (100,)
    with pytest.raises(RamsesError, match="MIN_SIZE_TRAIN is 100"):
        RamsesDatasetMapper(cfg, is_train=True)
    RamsesDatasetMapper(cfg, is_train=False)  # the training size does not matter for prediction
