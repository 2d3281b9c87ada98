"""Real photographs through registration, mapper and ground truth; skipped where they are not at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from ramses_d2.data import RamsesDatasetMapper, coco_ground_truth, read_label_map, register
from ramses_d2.data.augmentation import build_augmentation

DATA = Path(__file__).parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real photographs (shared/data) are not at hand")

GRAVEL = ("ramses://gravel", 4, 527, 1)
COINS = ("ramses://coins", 44, 1431, 8)
MUSHROOMS = ("coco://mushrooms/_annotations.coco.json?images=mushrooms", 8, 1402, 1)


def full_uri(uri: str) -> str:
    return uri.replace("://", f"://{DATA.resolve()}/").replace("images=", f"images={DATA.resolve()}/")


@needs_data
@pytest.mark.parametrize(("uri", "pictures", "objects", "classes"), [GRAVEL, COINS, MUSHROOMS])
def test_registration(uri: str, pictures: int, objects: int, classes: int) -> None:
    uri = register(full_uri(uri))
    records = DatasetCatalog.get(uri)
    assert len(records) == pictures
    assert sum(len(record["annotations"]) for record in records) == objects
    assert len(MetadataCatalog.get(uri).thing_classes) == classes


@needs_data
@pytest.mark.parametrize("uri", [GRAVEL[0], COINS[0], MUSHROOMS[0]])
def test_mapper(uri: str) -> None:
    mapper = RamsesDatasetMapper(
        is_train=True,
        image_format="RGB",
        augmentation=build_augmentation(
            short=512,
            long=768,
            flip=True,
            rotation=10,
            brightness=0.1,
            contrast=0.1,
            noise=3,
            scale=(0.8, 1.25),
        ),
        mask_stride=4,
    )
    for record in DatasetCatalog.get(register(full_uri(uri)))[:4]:
        output = mapper(record)
        count = len(output["instances"])
        assert 0 < count <= len(record["annotations"])
        assert output["label_map"].unique().tolist() == list(range(count + 1))
        assert output["instances"].gt_boxes.nonempty().all()
        masses = output["instances"].gt_masses
        assert masses.isnan().all() != (uri == COINS[0])


@needs_data
@pytest.mark.parametrize(("uri", "most"), [(GRAVEL[0], 190), (MUSHROOMS[0], 241)])
def test_ground_truth_of_crowded_pictures(uri: str, most: int) -> None:
    uri = register(full_uri(uri))
    records = DatasetCatalog.get(uri)
    truth = coco_ground_truth(records, MetadataCatalog.get(uri).thing_classes)
    counts = np.bincount([annotation["image_id"] for annotation in truth["annotations"]])
    assert counts.max() == most
    record = records[int(np.flatnonzero([len(record["annotations"]) == most for record in records])[0])]
    masks = [a["segmentation"] for a in truth["annotations"] if a["image_id"] == record["image_id"]]
    covered = np.zeros((record["height"], record["width"]), dtype=bool)
    for mask in masks:
        covered |= mask_utils.decode(mask).astype(bool)
    painted = read_label_map(record) > 0
    # Outlines are rasterised in their box there, and in the whole picture here
    assert np.count_nonzero(covered ^ painted) <= 0.001 * np.count_nonzero(painted)


@needs_data
def test_grams_of_the_coins() -> None:
    records = DatasetCatalog.get(register(full_uri(COINS[0])))
    grams = sum(annotation["mass"] for record in records for annotation in record["annotations"])
    assert grams == pytest.approx(7690.5, abs=0.1)
    # Diameter from the box, px / (px/mm): 10c coins are 19.75 mm wide
    record = next(record for record in records if record["image_name"] == "coins/10c_IMG_4187")
    widths = [(a["bbox"][2] - a["bbox"][0]) / record["resolution"] for a in record["annotations"]]
    assert np.median(widths) == pytest.approx(19.75, rel=0.04)
