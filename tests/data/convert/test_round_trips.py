"""There and back: a RAMSES folder in another format and a RAMSES folder again is the same data set.

A new format needs one row of ROUND_TRIPS; a format without a writer of its own has one here.
"""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools.coco import COCO

from ramses_d2.data.coco import load_coco
from ramses_d2.data.convert import FORMATS, read_coco, read_ramses, write_coco, write_ramses
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
    table["mass"] *= 1 / 3  # masses with all their digits
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


def assert_same(folder: Path, other: Path, lost: tuple[str, ...] = ()) -> None:
    """The same dataset dicts, pixel for pixel and gram for gram, but for the values that are lost."""
    (dataset_dicts, classes), (others, other_classes) = load_folder(folder), load_folder(other)
    assert classes == other_classes or "classes" in lost
    assert len(dataset_dicts) == len(others)
    for dataset_dict, copy in zip(dataset_dicts, others, strict=True):
        assert Path(dataset_dict["file_name"]).read_bytes() == Path(copy["file_name"]).read_bytes()
        np.testing.assert_array_equal(read_label_map(dataset_dict), read_label_map(copy))
        for key in {"height", "width", "resolution", "image_id"} - {*lost}:
            assert dataset_dict[key] == copy[key]
        kept = [
            [
                {k: v for k, v in a.items() if k not in (*lost, "category_id")} | {"class": names[a["category_id"]]}
                for a in each
            ]
            for each, names in ((dataset_dict["annotations"], classes), (copy["annotations"], other_classes))
        ]
        assert repr(kept[0]) == repr(kept[1])  # all digits, and NaN equals NaN


def to_coco(folder: Path, output: Path) -> dict[str, Any]:
    write_coco(read_ramses(folder), output)
    return {"json_path": output / "annotations.json"}


def to_solov2(folder: Path, output: Path) -> dict[str, Any]:
    (output / "annotations").mkdir(parents=True)
    for name in ("images", "labels"):
        shutil.copytree(folder / name, output / name)
    dataset_dicts, classes = load_folder(folder)
    for each in dataset_dicts:
        extra = ({"mass": a["mass"], "gt_mass": a["gt_mass"]} if a["mass"] > 0 else {} for a in each["annotations"])
        objects = {
            str(a["label"]): {"class": classes[a["category_id"]], "bbox": [], "res": each["resolution"]} | more
            for a, more in zip(each["annotations"], extra, strict=True)
        }
        (output / "annotations" / f"{Path(each['file_name']).stem}.json").write_text(json.dumps(objects))
    return {"folder": output}


def to_voc(folder: Path, output: Path) -> dict[str, Any]:
    """Objects by rising label, so that their places tell nothing; classes in the xml alone."""
    for name in ("SegmentationObject", "Annotations"):
        (output / name).mkdir(parents=True)
    shutil.copytree(folder / "images", output / "JPEGImages")
    dataset_dicts, classes = load_folder(folder)
    for each in dataset_dicts:
        name = Path(each["file_name"]).stem
        indices = np.searchsorted([0, *(a["label"] for a in each["annotations"])], read_label_map(each))
        image = Image.fromarray(indices.astype(np.uint8))
        image.putpalette(list(range(256)) * 3)
        image.save(output / f"SegmentationObject/{name}.png")
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "resolution").text = str(each["resolution"])
        for a in each["annotations"]:
            element = ElementTree.SubElement(root, "object")
            values = {"name": classes[a["category_id"]], "label": a["label"]}
            values |= {"mass": a["mass"], "gt_mass": a["gt_mass"]} if a["mass"] > 0 else {}
            for tag, value in values.items():
                ElementTree.SubElement(element, tag).text = str(value)
        ElementTree.ElementTree(root).write(output / f"Annotations/{name}.xml")
    # An image without objects needs a class image all the same
    shutil.copytree(output / "SegmentationObject", output / "SegmentationClass")
    return {"folder": output}


def to_labels(folder: Path, output: Path) -> dict[str, Any]:
    table = pd.read_csv(folder / "annotations.csv")[["baseimg", "label", "class"]]
    table.to_csv(folder.parent / "table.csv", index=False)
    shutil.copytree(folder / "labels", output)
    return {"label_folder": output, "image_folder": folder / "images", "class_table": folder.parent / "table.csv"}


# Format: how a folder gets there (returns the arguments of the reader), and what does not come back
ROUND_TRIPS: dict[str, tuple[Callable[[Path, Path], dict[str, Any]], tuple[str, ...]]] = {
    "coco": (to_coco, ()),
    "solov2": (to_solov2, ("classes",)),
    "voc": (to_voc, ("classes",)),
    "labels": (to_labels, ("classes", "resolution", "mass", "gt_mass")),
}


def test_every_format_goes_there_and_back():
    assert set(ROUND_TRIPS) == set(FORMATS) - {"ramses", "open-images"}  # which has no labels of its own


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_there_and_back(rich_folder, tmp_path, name):
    write, lost = ROUND_TRIPS[name]
    source = FORMATS[name].read(**write(rich_folder, tmp_path / "there"))
    source.resolution = 3.3  # of the empty image, where its format cannot say it
    report = write_ramses(source, tmp_path / "back")
    assert not +report.notes and sum(report.objects.values()) == 12
    assert_same(rich_folder, tmp_path / "back", lost)
    if name != "coco":
        assert list(pd.read_csv(tmp_path / "back/annotations.csv")) == [
            *("label", "baseimg", "area", "x0", "y0", "x1", "y1", "class", "res", "mass", "gt_mass", "height", "width")
        ]


def test_coco_and_back_is_the_same_folder(rich_folder, tmp_path):
    report = write_coco(read_ramses(rich_folder), tmp_path / "coco")
    assert report.notes == {"column of text left out: operator": 1}
    back = write_ramses(read_coco(tmp_path / "coco/annotations.json"), tmp_path / "back")
    assert back.objects == {"glass": 4, "brick": 4, "spare": 0, "concrete": 4}
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
            assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
            assert annotation["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
            seen["polygons" if isinstance(annotation["segmentation"], list) else "rle"] += 1
    # Only the object with the hole cannot be a polygon
    assert seen == ({"polygons": 11, "rle": 1} if segmentation == "auto" else {"polygons": 0, "rle": 12})
    report = write_coco(read_ramses(rich_folder), tmp_path / "polygons.json", segmentation="polygons")
    assert report.notes["objects whose polygons lose their holes"] == 1
    unknown = [a for a in coco.dataset["annotations"] if "mass" not in a]
    assert len(unknown) == 2 and not any(a["gt_mass"] for a in unknown)


def test_training_reads_the_export_as_it_reads_the_folder(rich_folder, tmp_path):
    report = write_coco(read_ramses(rich_folder), tmp_path / "deep/a.json")
    images = rich_folder / "images"
    assert report.uri == f"coco://{tmp_path / 'deep/a.json'}?images={images}"
    both = zip(load_folder(rich_folder)[0], load_coco(tmp_path / "deep/a.json", images)[0], strict=True)
    for one, other in both:
        assert (one["resolution"], one["height"]) == (other["resolution"], other["height"])
        np.testing.assert_array_equal(read_label_map(one) > 0, read_label_map(other) > 0)
        masses = ({a["mass"] for a in each["annotations"] if a["gt_mass"]} for each in (one, other))
        assert next(masses) == next(masses)


def write_split(path: Path, folders: dict[str, str], classes: list[str], **subsets: list[str]) -> str:
    content = {"format": "ramses-split", "version": 1, "folders": folders, "classes": classes, "subsets": subsets}
    path.write_text(json.dumps(content))
    return f"ramses://{path}"


def test_a_subset_of_a_split_and_its_whole_batches(rich_folder, tmp_path):
    classes = ["glass", "brick", "concrete"]
    train, whole = ["demo/img1", "demo/img1", "demo/img2"], ["demo/img2", "demo/img1", "demo/img0"]
    uri = write_split(tmp_path / "split.json", {"demo": "demo"}, classes, train=train, all=whole)
    source = read_ramses(f"{uri}#train")
    assert source.count == 2 and source.batches == [] and source.classes == classes
    assert source.notes["batches left out because an image of them is not converted"] == 1
    assert [image.name for image in source] == ["img1", "img2"]
    assert [batch["image_names"] for batch in read_ramses(f"{uri}#all").batches] == [["img0.png", "img1.png"]]


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
    images = list(source)
    assert [(image.details["camera"], image.details["tag"]) for image in images] == [
        *(("line scan", tag) for tag in ("belt", "", "empty"))
    ]
    assert all("feret" in image.objects for image in images[:2])
    assert source.batches == [{"image_names": ["img0.png", "img1.png"], "mass": {"brick": 1.25, "glass": None}}]
    assert set(source.notes) == {"column of text left out: operator"}


def test_folders_with_the_same_names_stay_apart(tiny_folder, tmp_path):
    tiny_folder("a", count=(2, 3))
    tiny_folder("b", count=(4, 5))
    names, classes = ["a/img0", "b/img0", "b/img1"], ["brick", "concrete", "glass"]
    uri = write_split(tmp_path / "split.json", {"a": "a", "b": "b"}, classes, train=names) + "#train"
    write_coco(read_ramses(uri), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == ["a_img0.png", "b_img0.png", "img1.png"]
    report = write_coco(read_ramses(uri), tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    names = [image["file_name"] for image in content["images"]]
    assert names == ["a/images/img0.png", "b/images/img0.png", "b/images/img1.png"]
    back = read_coco(tmp_path / "out.json", report.uri.partition("=")[2])
    assert [len(image.objects) for image in back] == [2, 4, 5]


@pytest.mark.skipif(not (REAL / "coins").is_dir(), reason="the real photographs (shared/data) are not at hand")
def test_real_coins_there_and_back(tmp_path):
    coins, small = REAL / "coins", tmp_path / "small"
    table = pd.read_csv(coins / "annotations.csv")
    names = sorted(table["baseimg"].unique())[:3]
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        (small / kind).mkdir(parents=True)
        for name in names:
            (small / kind / f"{name}.{suffix}").symlink_to(coins / kind / f"{name}.{suffix}")
    table[table["baseimg"].isin(names)].to_csv(small / "annotations.csv", index=False)
    write_coco(read_ramses(small), tmp_path / "coco", images="link")
    write_ramses(read_coco(tmp_path / "coco/annotations.json"), tmp_path / "back", images="link")
    assert_same(small, tmp_path / "back")
