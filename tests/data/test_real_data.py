"""Real photographs through registration, mapper and ground truth; skipped where they are not at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from ramses_d2.data.augmentation import build_augmentation
from ramses_d2.data.catalog import register
from ramses_d2.data.coco import coco_ground_truth
from ramses_d2.data.images import read_label_map
from ramses_d2.data.mapper import RamsesDatasetMapper

DATA = Path(__file__).parents[2] / "../shared/data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real photographs (shared/data) are not at hand")

GRAVEL = ("ramses://gravel", 4, 527, 1)
COINS = ("ramses://coins", 44, 1431, 8)
MUSHROOMS = ("coco://mushrooms/_annotations.coco.json?images=mushrooms", 8, 1402, 1)


def full_uri(uri: str) -> str:
    return uri.replace("://", f"://{DATA.resolve()}/").replace("images=", f"images={DATA.resolve()}/")


@pytest.mark.parametrize(("uri", "images", "objects", "classes"), [GRAVEL, COINS, MUSHROOMS])
def test_registration(uri: str, images: int, objects: int, classes: int) -> None:
    uri = register(full_uri(uri))
    dataset_dicts = DatasetCatalog.get(uri)
    assert len(dataset_dicts) == images
    assert sum(len(dataset_dict["annotations"]) for dataset_dict in dataset_dicts) == objects
    assert len(MetadataCatalog.get(uri).thing_classes) == classes


@pytest.mark.parametrize("uri", [GRAVEL[0], COINS[0], MUSHROOMS[0]])
def test_mapper(uri: str) -> None:
    augmentation = build_augmentation(
        short=512, long=768, flip=True, rotation=10, brightness=0.1, contrast=0.1, noise=3, scale=(0.8, 1.25)
    )
    mapper = RamsesDatasetMapper(is_train=True, image_format="RGB", augmentation=augmentation, mask_stride=4)
    for dataset_dict in DatasetCatalog.get(register(full_uri(uri)))[:4]:
        output = mapper(dataset_dict)
        count = len(output["instances"])
        assert 0 < count <= len(dataset_dict["annotations"])
        assert output["label_map"].unique().tolist() == list(range(count + 1))
        assert output["instances"].gt_boxes.nonempty().all()
        masses = output["instances"].gt_masses
        assert masses.isnan().all() != (uri == COINS[0])


@pytest.mark.parametrize(("uri", "most"), [(GRAVEL[0], 190), (MUSHROOMS[0], 241)])
def test_ground_truth_of_crowded_images(uri: str, most: int) -> None:
    uri = register(full_uri(uri))
    dataset_dicts = DatasetCatalog.get(uri)
    annotations = coco_ground_truth(dataset_dicts, MetadataCatalog.get(uri).thing_classes)["annotations"]
    counts = np.bincount([annotation["image_id"] for annotation in annotations])
    assert counts.max() == most
    dataset_dict = next(each for each in dataset_dicts if len(each["annotations"]) == most)
    covered = np.zeros((dataset_dict["height"], dataset_dict["width"]), dtype=bool)
    for annotation in annotations:
        if annotation["image_id"] == dataset_dict["image_id"]:
            covered |= mask_utils.decode(annotation["segmentation"]).astype(bool)
    painted = read_label_map(dataset_dict) > 0
    # Polygons are rasterised in their box there, and in the whole image here
    assert np.count_nonzero(covered ^ painted) <= 0.001 * np.count_nonzero(painted)


def test_grams_of_the_coins() -> None:
    dataset_dicts = DatasetCatalog.get(register(full_uri(COINS[0])))
    grams = sum(annotation["mass"] for dataset_dict in dataset_dicts for annotation in dataset_dict["annotations"])
    assert grams == pytest.approx(7690.5, abs=0.1)
    # Diameter from the box, px / (px/mm): 10c coins are 19.75 mm wide
    dataset_dict = next(each for each in dataset_dicts if each["image_name"] == "coins/10c_IMG_4187")
    widths = [(a["bbox"][2] - a["bbox"][0]) / dataset_dict["resolution"] for a in dataset_dict["annotations"]]
    assert np.median(widths) == pytest.approx(19.75, rel=0.04)
