"""The mapper: targets follow their objects; every key of its config."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ramses_d2.config import add_ramses_config
from ramses_d2.data.augmentation import build_augmentation
from ramses_d2.data.folder import load_folder
from ramses_d2.data.mapper import RamsesDatasetMapper, training_canvas, training_edges
from tests.conftest import refused
from tests.data.conftest import LEVEL

DatasetDict = dict[str, Any]
BLOCK = np.ones((3, 3), dtype=np.uint8)


def mapper_of(augmentation: T.Augmentation, mask_stride: int) -> RamsesDatasetMapper:
    return RamsesDatasetMapper(is_train=True, image_format="RGB", augmentation=augmentation, mask_stride=mask_stride)


def mapper(
    short: int | tuple[int, ...] = 64, long: int = 128, mask_stride: int = 4, **options: Any
) -> RamsesDatasetMapper:
    return mapper_of(build_augmentation(short=short, long=long, **options), mask_stride)


def labels_of(dataset_dict: DatasetDict) -> np.ndarray:
    return np.asarray(Image.open(dataset_dict["label_file_name"]))


@pytest.fixture
def painted(tiny_folder: Callable[..., Path]) -> Callable[..., DatasetDict]:
    """Factory of an image whose objects 1, 2 ... are rectangles (rows, columns)."""

    def _paint(size: tuple[int, int], *objects: tuple[slice, slice]) -> DatasetDict:
        (dataset_dict,), _ = load_folder(tiny_folder(sizes=(size,), count=len(objects)))
        label_map = np.zeros(size, dtype=np.uint16)
        for label, place in enumerate(objects, start=1):
            label_map[place] = label
        Image.fromarray(label_map).save(dataset_dict["label_file_name"])
        return dataset_dict

    return _paint


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    index=st.integers(0, 4),
    seed=st.integers(0, 2**31),
    mask_stride=st.sampled_from([2, 4, 8, 16]),
    fit=st.sampled_from(["pad", "crop"]),
    flip=st.booleans(),
    rotation=st.sampled_from([0.0, 40.0]),
    scale=st.sampled_from([(1.0, 1.0), (0.6, 1.6)]),
)
def test_targets_follow_their_objects(
    numbered: list[DatasetDict], index: int, seed: int, mask_stride: int, **options: Any
) -> None:
    np.random.seed(seed)
    dataset_dict = numbered[index]
    output = mapper(mask_stride=mask_stride, **options)(dataset_dict)
    height, width = output["image"].shape[1:]
    assert (height, width) == ((64, 128) if dataset_dict["height"] <= dataset_dict["width"] else (128, 64))
    assert output["label_map"].shape == (height // mask_stride, width // mask_stride)
    check_targets(output, mask_stride)


def check_targets(output: DatasetDict, mask_stride: int) -> None:
    """Image, label map, boxes, classes and masses of ``numbered`` agree."""
    instances, grid, image = output["instances"], output["label_map"], output["image"]
    height, width = image.shape[1:]
    assert instances.image_size == (height, width)
    # values are exactly 1..K, in label order
    assert set(grid.unique().tolist()) - {0} == set(range(1, len(instances) + 1))
    classes = instances.gt_classes.tolist()
    assert classes == sorted(set(classes))
    # away from the blurred edges: pixels of the mask grid whose neighbours are all of the same object
    values = grid.numpy().astype(np.uint16)
    inner = cv2.erode(values, BLOCK, borderType=cv2.BORDER_CONSTANT, borderValue=0) == cv2.dilate(values, BLOCK)
    inner = torch.from_numpy(inner)
    for k in range(len(instances)):
        mass = float(instances.gt_masses[k])
        assert mass == classes[k] or math.isnan(mass)
        # the image under the object's pixels has the object's grey level, and its box contains them
        ys, xs = (((grid == k + 1) & inner).nonzero() * mask_stride + mask_stride // 2).unbind(1)
        assert ((image[0, ys, xs].float() - LEVEL * classes[k]).abs() <= 2).all()
        ys, xs = ((grid == k + 1).nonzero() * mask_stride + mask_stride // 2).unbind(1)
        x0, y0, x1, y1 = instances.gt_boxes.tensor[k].tolist()
        assert x0 <= xs.min() and xs.max() < x1 and y0 <= ys.min() and ys.max() < y1
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    index=st.integers(0, 4),
    seed=st.integers(0, 2**31),
    mask_stride=st.sampled_from([2, 4, 8, 16]),
    short=st.sampled_from([(64,), (70, 101, 150), (97, 131)]),
    sampling=st.sampled_from(["choice", "range"]),
    flip=st.booleans(),
    rotation=st.sampled_from([0.0, 40.0]),
)
def test_targets_follow_their_objects_at_any_size(
    numbered: list[DatasetDict], index: int, seed: int, mask_stride: int, short: tuple[int, ...], **options: Any
) -> None:
    np.random.seed(seed)
    dataset_dict = numbered[index]
    options["sampling"] = options["sampling"] if len(short) == 2 else "choice"
    output = mapper(short, 190, mask_stride, fit="edge", **options)(dataset_dict)
    height, width = output["image"].shape[1:]
    assert max(height, width) <= 190 and min(height, width) >= 63
    assert height / width == pytest.approx(dataset_dict["height"] / dataset_dict["width"], rel=0.02)
    # The grid pixels whose sample lies in the image; those of the padded image only follow
    assert output["label_map"].shape == tuple((side + mask_stride // 2 - 1) // mask_stride for side in (height, width))
    check_targets(output, mask_stride)


def test_edge_without_a_resize_changes_nothing(numbered: list[DatasetDict]) -> None:
    dataset_dict = numbered[4]  # 90 x 90, no multiple of the stride
    output = mapper((90,), 90, mask_stride=4, fit="edge")(dataset_dict)
    label_map = labels_of(dataset_dict)
    assert np.array_equal(output["image"][0], label_map * LEVEL)
    padded = np.pad(label_map, ((0, 38), (0, 38)))[2::4, 2::4]
    assert np.array_equal(np.pad(output["label_map"], ((0, 10), (0, 10))), padded)
    assert not output["instances"].gt_masses.isnan().any()


def test_edge_changes_the_mass_scale_and_cuts_nothing(numbered: list[DatasetDict]) -> None:
    dataset_dict = numbered[2] | {"resolution": 5.0}  # 200 x 300
    for short, long, factor in (((100,), 999, 0.5), ((400,), 999, 2.0), ((400,), 450, 1.5)):
        output = mapper(short, long, mask_stride=2, fit="edge", flip=True)(dataset_dict)
        assert output["mass_scale"] == pytest.approx((10 * 5 * factor / 2) ** 2)
        assert not output["instances"].gt_masses.isnan().any() and len(output["instances"]) == 20


def test_without_augmentation_nothing_changes(numbered: list[DatasetDict]) -> None:
    dataset_dict = numbered[0]
    output = mapper()(dataset_dict)
    label_map = labels_of(dataset_dict)
    assert np.array_equal(output["label_map"], label_map[2::4, 2::4])
    assert np.array_equal(output["label_map"], cv2.resize(label_map, (32, 16), interpolation=cv2.INTER_NEAREST_EXACT))
    assert np.array_equal(output["image"][0], label_map * LEVEL)
    boxes = [annotation["bbox"] for annotation in dataset_dict["annotations"]]
    assert output["instances"].gt_boxes.tensor.tolist() == boxes
    assert output["instances"].gt_masses.tolist() == [1, 2, 3, 4, 5, 6]
    assert output["instances"].gt_classes.dtype == output["label_map"].dtype == torch.int64
    assert output["instances"].gt_masses.dtype == torch.float32 and output["image"].dtype == torch.uint8
    for key in ("file_name", "image_id", "height", "width", "resolution"):
        assert output[key] == dataset_dict[key]


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=st.integers(0, 2), resolution=st.floats(0.5, 50), seed=st.integers(0, 2**31))
def test_half_the_size_is_a_quarter_of_the_normalised_mass(
    numbered: list[DatasetDict], index: int, resolution: float, seed: int
) -> None:
    dataset_dict = numbered[index] | {"resolution": resolution}
    outputs = []
    for short, long in ((128, 256), (64, 128)):
        np.random.seed(seed)
        outputs.append(mapper(short, long, mask_stride=2, flip=True, rotation=5.0)(dataset_dict))
    assert outputs[0]["mass_scale"] == pytest.approx(4 * outputs[1]["mass_scale"], rel=0.02)  # rounded to px
    large, small = (
        dict(zip(o["instances"].gt_classes.tolist(), o["instances"].gt_masses * o["mass_scale"], strict=True))
        for o in outputs
    )
    known = [c for c in large.keys() & small.keys() if not (large[c].isnan() or small[c].isnan())]
    assert known
    for c in known:
        assert float(large[c]) == pytest.approx(4 * float(small[c]), rel=0.02)


def test_mass_scale(numbered: list[DatasetDict]) -> None:
    dataset_dict = numbered[0] | {"resolution": 5.0}  # 64 x 128
    assert mapper(mask_stride=4)(dataset_dict)["mass_scale"] == pytest.approx((10 * 5 / 4) ** 2)
    assert mapper(128, 256, mask_stride=4)(dataset_dict)["mass_scale"] == pytest.approx((10 * 10 / 4) ** 2)
    for options in ({"flip": True}, {"rotation": 30.0}, {"noise": 3.0}):
        assert mapper(**options)(dataset_dict)["mass_scale"] == pytest.approx((10 * 5 / 4) ** 2)


def test_flip_twice_is_the_identity(numbered: list[DatasetDict]) -> None:
    flips = [T.RandomFlip(prob=1.0, horizontal=h, vertical=not h) for h in (True, False)]
    plain, once, twice = (
        mapper_of(T.AugmentationList(chain), mask_stride=4)(numbered[0]) for chain in ([], flips, flips + flips)
    )
    assert not torch.equal(plain["image"], once["image"])
    for key in ("image", "label_map"):
        assert torch.equal(plain[key], twice[key])
    assert torch.equal(plain["instances"].gt_boxes.tensor, twice["instances"].gt_boxes.tensor)


# ---- objects that are cut lose their mass, and only that


def cut(output: DatasetDict) -> list[bool]:
    return output["instances"].gt_masses.isnan().tolist()


def test_an_object_that_is_cut_loses_its_mass_only(tiny_folder: Callable[..., Path]) -> None:
    (dataset_dict,), _ = load_folder(tiny_folder(sizes=((64, 192),), count=3))
    # The middle 128 of 192 columns are kept: the outer objects reach columns 5..58 and 133..186
    output = mapper(64, 128, mask_stride=2, fit="crop")(dataset_dict)
    assert cut(output) == [True, False, True] and output["instances"].gt_classes.tolist() == [0, 1, 2]
    assert cut(mapper(64, 192, mask_stride=2, fit="crop")(dataset_dict)) == [False] * 3


def test_an_object_cut_by_the_rotation_loses_its_mass(painted: Callable[..., DatasetDict]) -> None:
    corner, middle = (slice(0, 20), slice(0, 20)), (slice(40, 60), slice(50, 70))
    dataset_dict = painted((96, 128), corner, middle)
    rest = build_augmentation(short=128, long=192, scale=(0.5, 0.5)).augs
    chain = [T.RandomRotation([20, 20], expand=False), *rest]
    assert cut(mapper_of(T.AugmentationList(chain), mask_stride=2)(dataset_dict)) == [True, False]
    assert cut(mapper_of(T.AugmentationList(rest), mask_stride=2)(dataset_dict)) == [False, False]
    np.random.seed(5)  # by 26 degrees
    assert cut(mapper((99,), 150, mask_stride=2, fit="edge", rotation=30.0)(dataset_dict)) == [True, False]


def test_an_object_at_the_border_of_the_image_keeps_its_mass(painted: Callable[..., DatasetDict]) -> None:
    dataset_dict = painted((64, 128), (slice(0, 30), slice(0, 50)))
    for options in ({}, {"flip": True}, {"scale": (0.7, 1.0)}):
        assert cut(mapper(mask_stride=2, **options)(dataset_dict)) == [False]


def test_a_small_object_that_only_lost_pixels_to_sampling_keeps_its_mass(painted: Callable[..., DatasetDict]) -> None:
    # 25 px; at half the size 6.25 are expected and 4 are left
    output = mapper(mask_stride=2)(painted((128, 256), (slice(50, 55), slice(100, 105))))
    x0, y0, x1, y1 = output["instances"].gt_boxes.tensor[0].tolist()
    assert (x1 - x0) * (y1 - y0) == 4 and cut(output) == [False]


# ---- other contents


def test_lost_objects_are_renumbered(numbered: list[DatasetDict]) -> None:
    dataset_dict = numbered[0]
    label_map = labels_of(dataset_dict).copy()
    label_map[label_map == 2] = 0  # a row without pixels
    label_map[label_map == 4] = 0
    label_map[0, 0] = 4  # too small for the mask grid
    label_map[60, 5] = 99  # no row
    Image.fromarray(label_map).save(dataset_dict["label_file_name"])
    output = mapper()(dataset_dict)
    assert output["instances"].gt_classes.tolist() == [1, 3, 5, 6]
    assert sorted(output["label_map"].unique().tolist()) == [0, 1, 2, 3, 4]
    assert np.array_equal(output["label_map"] == 2, (label_map == 3)[2::4, 2::4])


def test_image_without_objects(tiny_folder: Callable[..., Path]) -> None:
    dataset_dicts, _ = load_folder(tiny_folder(count=0))
    output = mapper(flip=True, rotation=10.0, scale=(0.8, 1.2))(dataset_dicts[0])
    instances = output["instances"]
    assert len(instances) == 0 and instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.gt_classes.dtype == torch.int64 and instances.gt_masses.dtype == torch.float32
    assert output["label_map"].dtype == torch.int64 and not output["label_map"].any()
    assert output["mass_scale"] > 0


def test_unknown_masses_unknown_resolution_and_800_objects(tiny_folder: Callable[..., Path]) -> None:
    (unweighed, _), _ = load_folder(tiny_folder(nan_masses=True))
    (weighed, _), _ = load_folder(tiny_folder(name="other"))
    for dataset_dict, is_known in ((unweighed, True), (weighed | {"resolution": math.nan}, False)):
        output = mapper()(dataset_dict)
        assert output["instances"].gt_masses.isnan().all() and len(output["instances"]) == 6
        assert (output["mass_scale"] > 0) is is_known and math.isnan(output["mass_scale"]) is not is_known
    (crowded,), _ = load_folder(tiny_folder(name="crowded", sizes=((512, 768),), count=800))
    output = mapper(512, 768, flip=True)(crowded)
    assert len(output["instances"]) == 800 and output["label_map"].max() == 800


def test_polygons(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 128, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    polygons = [[[10, 10, 60, 10, 60, 50, 10, 50]], [[20, 20, 40, 20, 40, 40, 20, 40]]]
    dataset_dict = {"file_name": str(tmp_path / "a.png"), "image_id": 1, "height": 64, "width": 128}
    dataset_dict |= {"resolution": math.nan} | {
        "annotations": [
            {"label": label, "category_id": 0, "mass": math.nan, "segmentation": segmentation}
            for label, segmentation in enumerate(polygons, start=1)
        ]
    }
    output = mapper(mask_stride=2)(dataset_dict)
    assert output["instances"].gt_boxes.tensor.tolist() == [[10, 10, 60, 50], [20, 20, 40, 40]]
    assert (output["label_map"] == 2).sum() == 100


# ---- its config

STILL = ["ROTATION", 0.0, "BRIGHTNESS", 0.0, "CONTRAST", 0.0, "NOISE", 0.0]


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
    cfg.INPUT.AUG.merge_from_list([*STILL, "FLIP", False, "SCALE", (1.0, 1.0)])
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

    cfg.INPUT.AUG.merge_from_list(STILL)
    cfg.INPUT.MIN_SIZE_TRAIN = (44, 44)
    flips = {}
    for cfg.INPUT.AUG.VERTICAL_FLIP in (True, False):
        outputs = [RamsesDatasetMapper(cfg, is_train=True)(dataset_dict) for _ in range(30)]
        flips[cfg.INPUT.AUG.VERTICAL_FLIP] = len({output["image"].numpy().tobytes() for output in outputs})
    assert flips == {True: 4, False: 2}


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (((), 100, 4, "choice"), "MIN_SIZE_TRAIN is ()"),
        (((50, 0), 100, 4, "choice"), "MIN_SIZE_TRAIN is (50, 0)"),
        (((50, 101), 100, 4, "choice"), "MAX_SIZE_TRAIN is only 100"),
        (((50,), 100, 4, "range"), "MIN_SIZE_TRAIN is (50,)"),
        (((60, 50), 100, 4, "range"), "MIN_SIZE_TRAIN is (60, 50)"),
        (((50,), 100, 6, "choice"), "MASK_STRIDE is 6"),
        (((50,), 100, 4, "random"), "MIN_SIZE_TRAIN_SAMPLING is 'random'"),
        (((64, 128), 128, 8), "MIN_SIZE_TRAIN is (64, 128)"),
        (((100,), 128, 8), "MIN_SIZE_TRAIN is 100, not a multiple of 64; the nearest is 128"),
        (((64,), 130, 8), "MAX_SIZE_TRAIN is 130, not a multiple of 64; the nearest is 128"),
        (((0,), 128, 8), "MIN_SIZE_TRAIN is 0"),
        (((128,), 64, 8), "MIN_SIZE_TRAIN (128)"),
        (((64,), 128, 6), "MASK_STRIDE is 6"),
    ],
)
def test_sizes_that_make_no_sense(sizes: tuple[Any, ...], words: str) -> None:
    check = training_edges if len(sizes) == 4 else training_canvas
    with refused(words):
        check(*sizes)


def test_wrong_config(cfg: CfgNode) -> None:
    cfg.INPUT.FIT = "stretch"
    with refused("INPUT.FIT is 'stretch'"):
        RamsesDatasetMapper(cfg, is_train=True)
    cfg.INPUT.FIT, cfg.INPUT.MIN_SIZE_TRAIN = "pad", (100,)
    with refused("MIN_SIZE_TRAIN is 100"):
        RamsesDatasetMapper(cfg, is_train=True)
    RamsesDatasetMapper(cfg, is_train=False)  # the training size does not matter for prediction
