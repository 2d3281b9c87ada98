"""There and back: a RAMSES folder in another format and a RAMSES folder again is the same data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools.coco import COCO

from ramses_d2.data.coco import load_coco
from ramses_d2.data.convert.coco import read_coco, write_coco
from ramses_d2.data.convert.ramses import read_ramses, write_ramses
from ramses_d2.data.folder import load_folder
from ramses_d2.data.images import read_label_map

REAL = Path(__file__).parents[4] / "shared/data"


@pytest.fixture
def rich_folder(tiny_folder) -> Path:
    """Three images, one empty: a hole, two parts, a speck, touching objects, gaps in the labels, every column."""
    folder = tiny_folder(sizes=((64, 96), (96, 64), (40, 40)), count=(6, 6, 0), resolution=(2.0, 28.7, 3.3))
    label_map = np.array(Image.open(folder / "labels/img0.png"))
    rows, columns = np.nonzero(label_map == 1)
    label_map[rows.min() + 4 : rows.min() + 7, columns.min() + 8 : columns.min() + 11] = 0  # a hole
    rows, columns = np.nonzero(label_map == 2)
    label_map[rows.min() : rows.max() + 1, columns.min() + 5] = 0  # two parts
    label_map[0, 0] = 3  # a speck in the corner, two parts too
    label_map[label_map == 6] = 60000
    edge = np.nonzero(label_map == 4)[0].max() + 1
    label_map[edge : edge + 2, np.nonzero(label_map == 4)[1].min()] = 5
    Image.fromarray(label_map).save(folder / "labels/img0.png")
    table = pd.read_csv(folder / "annotations.csv")
    table.loc[(table["baseimg"] == "img0") & (table["label"] == 6), "label"] = 60000
    for index, row in table.iterrows():
        label_map = np.array(Image.open(folder / f"labels/{row['baseimg']}.png"))
        rows, columns = np.nonzero(label_map == row["label"])
        box = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        table.loc[index, ["area", "x0", "y0", "x1", "y1"]] = [len(rows), *box]
    table["mass"] *= 1 / 3  # grams with all their digits
    table.loc[[1, 7], "mass"] = np.nan
    table.loc[[1, 2, 7], "gt_mass"] = False
    table.insert(7, "feret", np.arange(12) * 1.1)
    table.insert(8, "radius", np.arange(12) / 7)
    table["F"] = [np.nan, *np.arange(11) * 1e-3]
    table["operator"] = "somebody"
    table.to_csv(folder / "annotations.csv", index=False, na_rep="NaN")
    metadata = json.loads((folder / "metadata.json").read_text())
    for entry, tag in zip(metadata["images"], ("belt", "", "empty"), strict=True):
        entry |= {"camera": "line scan", "date": "2026-01-02", "tag": tag, "exposure": 0.25}
    metadata["batches"] = [{"image_names": ["img0.png", "img1.png"], "mass": {"brick": 1.25, "glass": None}}]
    (folder / "metadata.json").write_text(json.dumps(metadata))
    (folder / "classes.json").write_text(json.dumps({"glass": 1, "brick": 2, "spare": 3, "concrete": 4}))
    return folder


def assert_same(folder: Path, other: Path) -> None:
    """The same dataset dicts, pixel for pixel and gram for gram, and the same rows."""
    (dataset_dicts, classes), (others, other_classes) = load_folder(folder), load_folder(other)
    assert classes == other_classes
    assert len(dataset_dicts) == len(others)
    for dataset_dict, copy in zip(dataset_dicts, others, strict=True):
        assert Path(dataset_dict["file_name"]).read_bytes() == Path(copy["file_name"]).read_bytes()
        np.testing.assert_array_equal(read_label_map(dataset_dict), read_label_map(copy))
        for key in ("height", "width", "resolution", "image_id"):
            assert dataset_dict[key] == copy[key]
        assert repr(dataset_dict["annotations"]) == repr(copy["annotations"])  # all digits, and NaN equals NaN


def test_coco_and_back_is_the_same_folder(rich_folder, tmp_path):
    report = write_coco(read_ramses(rich_folder), tmp_path / "coco")
    assert report.notes == {"column of text left out: operator": 1}
    back = write_ramses(read_coco(tmp_path / "coco/annotations.json"), tmp_path / "back")
    assert not +back.notes and back.objects == {"glass": 4, "brick": 4, "spare": 0, "concrete": 4}
    assert_same(rich_folder, tmp_path / "back")
    before, after = (pd.read_csv(folder / "annotations.csv") for folder in (rich_folder, tmp_path / "back"))
    pd.testing.assert_frame_equal(before.drop(columns="operator"), after, check_exact=True)
    before, after = (json.loads((f / "metadata.json").read_text()) for f in (rich_folder, tmp_path / "back"))
    assert before == after


@pytest.mark.parametrize("segmentation", ["auto", "rle"])
def test_pycocotools_sees_the_same_areas_and_boxes(rich_folder, tmp_path, segmentation, capsys):
    write_coco(read_ramses(rich_folder), tmp_path / "a.json", segmentation=segmentation)
    coco = COCO(tmp_path / "a.json")
    assert [category["id"] for category in coco.loadCats(coco.getCatIds())] == [1, 2, 3, 4]
    assert min(coco.getImgIds()) == 1 and min(coco.getAnnIds()) == 1
    seen = {"polygons": 0, "rle": 0}
    for image in coco.loadImgs(coco.getImgIds()):
        label_map = np.array(Image.open(rich_folder / "labels" / image["file_name"]))
        assert (image["height"], image["width"]) == label_map.shape and image["resolution"] == image["res"]
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert [a["label"] for a in annotations] == [v for v in np.unique(label_map) if v]
        for annotation in annotations:
            mask = label_map == annotation["label"]
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            rows, columns = np.nonzero(mask)
            x, y = columns.min(), rows.min()
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
            assert annotation["iscrowd"] == 0
            seen["polygons" if isinstance(annotation["segmentation"], list) else "rle"] += 1
    # Only the object with the hole cannot be a polygon
    assert seen == ({"polygons": 11, "rle": 1} if segmentation == "auto" else {"polygons": 0, "rle": 12})
    content = json.loads((tmp_path / "a.json").read_text())
    unknown = [a for a in content["annotations"] if "mass" not in a]
    assert len(unknown) == 2 and not any(a["gt_mass"] for a in unknown)


def test_training_reads_the_export_as_it_reads_the_folder(rich_folder, tmp_path):
    report = write_coco(read_ramses(rich_folder), tmp_path / "deep/a.json")
    images = rich_folder / "images"
    assert report.uri == f"coco://{tmp_path / 'deep/a.json'}?images={images}"
    for dataset_dict, other in zip(
        load_folder(rich_folder)[0], load_coco(tmp_path / "deep/a.json", images)[0], strict=True
    ):
        assert (dataset_dict["resolution"], dataset_dict["height"]) == (other["resolution"], other["height"])
        np.testing.assert_array_equal(read_label_map(dataset_dict) > 0, read_label_map(other) > 0)
        masses = ({a["mass"] for a in r["annotations"] if a["gt_mass"]} for r in (dataset_dict, other))
        assert next(masses) == next(masses)


def test_a_subset_of_a_split_and_its_whole_batches(rich_folder, tmp_path):
    split = {
        "format": "ramses-split",
        "version": 1,
        "folders": {"demo": "demo"},
        "classes": ["glass", "brick", "concrete"],
        "subsets": {"train": ["demo/img1", "demo/img1", "demo/img2"], "all": ["demo/img2", "demo/img1", "demo/img0"]},
    }
    (tmp_path / "split.json").write_text(json.dumps(split))
    source = read_ramses(f"ramses://{tmp_path / 'split.json'}#train")
    assert source.count == 2 and source.batches == [] and source.classes == ["glass", "brick", "concrete"]
    assert source.notes["batches left out because an image of them is not converted"] == 1
    assert [image.name for image in source] == ["img1", "img2"]
    source = read_ramses(f"ramses://{tmp_path / 'split.json'}#all")
    assert [batch["image_names"] for batch in source.batches] == [["img0.png", "img1.png"]]


@pytest.mark.parametrize("form", ["{}", "images/{}.png", "{}.PNG"])
def test_names_without_extension_or_with_a_folder(rich_folder, form):
    """The further columns, the entries and the batches of an image are found under any form of its name."""
    table = pd.read_csv(rich_folder / "annotations.csv")
    table.assign(baseimg=table["baseimg"].map(form.format)).to_csv(rich_folder / "annotations.csv", index=False)
    metadata = json.loads((rich_folder / "metadata.json").read_text())
    for entry in metadata["images"]:
        entry["file_name"] = form.format(Path(entry["file_name"]).stem)
    metadata["batches"][0]["image_names"] = [form.format("img0"), form.format("img1")]
    (rich_folder / "metadata.json").write_text(json.dumps(metadata))
    source = read_ramses(rich_folder)
    assert [image.details["camera"] for image in source] == ["line scan"] * 3
    assert [image.details["tag"] for image in read_ramses(rich_folder)] == ["belt", "", "empty"]
    assert all("feret" in image.objects for image in list(read_ramses(rich_folder))[:2])
    assert source.batches == [{"image_names": ["img0.png", "img1.png"], "mass": {"brick": 1.25, "glass": None}}]
    assert set(source.notes) == {"column of text left out: operator"}


def test_folders_with_the_same_names_stay_apart(tiny_folder, tmp_path):
    tiny_folder("a", count=(2, 3))
    tiny_folder("b", count=(4, 5))
    split = {
        "format": "ramses-split",
        "version": 1,
        "folders": {"a": "a", "b": "b"},
        "classes": ["brick", "concrete", "glass"],
        "subsets": {"train": ["a/img0", "b/img0", "b/img1"]},
    }
    (tmp_path / "split.json").write_text(json.dumps(split))
    address = f"ramses://{tmp_path / 'split.json'}#train"
    write_coco(read_ramses(address), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == ["a_img0.png", "b_img0.png", "img1.png"]
    report = write_coco(read_ramses(address), tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    names = [image["file_name"] for image in content["images"]]
    assert names == ["a/images/img0.png", "b/images/img0.png", "b/images/img1.png"]
    back = read_coco(tmp_path / "out.json", report.uri.partition("=")[2])
    assert [len(image_file.objects) for image_file in back] == [2, 4, 5]


def test_real_coins_there_and_back(tmp_path):
    coins = REAL / "coins"
    if not coins.is_dir():
        pytest.skip(f"{coins} is absent")
    small = tmp_path / "small"
    small.mkdir()
    table = pd.read_csv(coins / "annotations.csv")
    names = sorted(table["baseimg"].unique())[:3]
    table[table["baseimg"].isin(names)].to_csv(small / "annotations.csv", index=False)
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        (small / kind).mkdir()
        for name in names:
            (small / kind / f"{name}.{suffix}").symlink_to(coins / kind / f"{name}.{suffix}")
    write_coco(read_ramses(small), tmp_path / "coco", images="link")
    write_ramses(read_coco(tmp_path / "coco/annotations.json"), tmp_path / "back", images="link")
    assert_same(small, tmp_path / "back")
