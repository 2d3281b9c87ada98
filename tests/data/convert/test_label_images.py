"""Label images of other programs with a class table."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.io import imsave

from ramses_d2.data.convert.label_images import read_label_images
from ramses_d2.data.convert.ramses import write_ramses
from ramses_d2.errors import RamsesError
from tests.data.convert.images import read_labels, save_image


def label_map() -> np.ndarray:
    values = np.zeros((20, 30), dtype=np.int64)
    values[1:6, 2:9] = 1
    values[8:12, 20:30] = 2
    values[15:20, 0:4] = 200
    return values


@pytest.fixture
def folders(tmp_path):
    """Two images; ``a`` has a label image."""
    save_image(tmp_path / "pictures/a.jpg", 20, 30)
    save_image(tmp_path / "pictures/b.jpg", 20, 30)
    (tmp_path / "masks").mkdir()
    Image.fromarray(label_map().astype(np.uint16)).save(tmp_path / "masks/a.png")
    return tmp_path / "masks", tmp_path / "pictures"


def test_a_class_table_as_csv(folders, tmp_path):
    (tmp_path / "table.csv").write_text("image,label,class\na.jpg, 1 ,Ra\n\na,2,Rb\na,200,Ra\na,77,Ra\nb,1,Rc\n")
    source = read_label_images(*folders, class_table=tmp_path / "table.csv")
    source.resolution = 2.5
    report = write_ramses(source, tmp_path / "out")
    assert report.objects == {"Ra": 2, "Rb": 1, "Rc": 0}
    assert +report.notes == {"images without a label image left out": 1, "objects without a pixel left out": 1}
    np.testing.assert_array_equal(read_labels(tmp_path / "out", "a"), label_map())
    table = pd.read_csv(tmp_path / "out/annotations.csv")
    assert table[["label", "class", "area", "x0", "y0", "x1", "y1", "res"]].to_numpy().tolist() == [
        [1, "Ra", 35, 1, 2, 6, 9, 2.5],
        [2, "Rb", 40, 8, 20, 12, 30, 2.5],
        [200, "Ra", 20, 15, 0, 20, 4, 2.5],
    ]
    assert table["mass"].isna().all() and not table["gt_mass"].any()


def test_a_class_table_as_json_and_a_class_for_the_rest(folders, tmp_path):
    (tmp_path / "table.json").write_text(json.dumps({"a": {"2": "Rb"}}))
    (image,) = read_label_images(*folders, class_table=tmp_path / "table.json", class_name="stone")
    assert dict(zip(image.objects["label"], image.objects["class"], strict=True)) == {
        1: "stone",
        2: "Rb",
        200: "stone",
    }


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        *((kind, "tif") for kind in ("uint8", "uint16", "int32", "uint32", "bool", "palette")),
        *((kind, "png") for kind in ("uint8", "uint16", "bool", "palette")),
    ],
)
def test_whole_numbers_of_any_depth(folders, kind, suffix):
    masks, images = folders
    (masks / "a.png").unlink()
    values = label_map()
    image = Image.fromarray((values > 0) if kind == "bool" else values.astype("uint8" if kind == "palette" else kind))
    if kind == "palette":
        image.putpalette(list(range(256)) * 3)
    image.save(masks / f"a_cp_masks.{suffix}")
    (read,) = read_label_images(masks, images, class_name="cell", label_suffix="_cp_masks")
    np.testing.assert_array_equal(read.label_map, values > 0 if kind == "bool" else values)


def test_tiffs_of_64_bits(folders):
    masks, images = folders
    (masks / "a.png").unlink()
    imsave(masks / "a.tif", label_map(), check_contrast=False)
    with pytest.raises(RamsesError, match=r"a\.tif: the image cannot be read"):
        list(read_label_images(masks, images, class_name="cell"))


def test_labels_above_16_bits_are_renumbered(folders, tmp_path):
    masks, images = folders
    (masks / "a.png").unlink()
    Image.fromarray((label_map() * 1_000_003).astype(np.int32)).save(masks / "a.tif")
    (tmp_path / "table.json").write_text(json.dumps({"a": {"2000006": "Rb"}}))
    source = read_label_images(masks, images, class_table=tmp_path / "table.json", class_name="Ra")
    (image,) = source
    assert image.objects[["label", "class"]].to_numpy().tolist() == [[1, "Ra"], [2, "Rb"], [3, "Ra"]]
    np.testing.assert_array_equal(image.label_map, np.searchsorted([0, 1, 2, 200], label_map()))
    assert source.notes["images renumbered because of labels above 65535"] == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,label\na,1\n", r"t\.csv: columns image, label and class are needed \(found: image, label\)"),
        ("image,label,class\na,1.5,Ra\n", r"t\.csv, row 2: label is '1.5'"),
        ("image,label,class\na,1,Ra\na,0,Ra\n", r"t\.csv, row 3: label is '0'"),
        ("image,label,class\na,1,Ra\n\n\nc,1,Ra\n", r"t\.csv, row 5: there is no image 'c'"),
        ("image,label,class\na,1,Ra\na.jpg,1,Rb\n", r"t\.csv, row 3: label 1 of a\.jpg appears a second time"),
        ("image,label,class\na,1,\n", r"t\.csv, row 2: label 1 has no class"),
        ("image,label,class\na,1,Ra\na,2,Ra\n", r"a\.png: label 200 \(1 of 3\) has no class"),
        ("", r"t\.csv: not a comma-separated table"),
    ],
)
def test_a_wrong_table_is_named(folders, tmp_path, table, message):
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(RamsesError, match=message):
        list(read_label_images(*folders, class_table=tmp_path / "t.csv"))


def test_wrong_files_are_named(folders, tmp_path):
    masks, images = folders
    with pytest.raises(RamsesError, match="masks: label images do not say classes"):
        read_label_images(masks, images)
    with pytest.raises(RamsesError, match="none ends in '_seg'"):
        read_label_images(masks, images, class_name="cell", label_suffix="_seg")
    Image.fromarray(label_map().astype(np.float32)).save(masks / "b.tif")
    with pytest.raises(RamsesError, match=r"b\.tif: a label image has one channel of whole numbers"):
        list(read_label_images(masks, images, class_name="cell"))
    Image.fromarray(label_map().astype(np.uint8)).save(masks / "c.png")
    with pytest.raises(RamsesError, match=r"c\.\* is missing in"):
        read_label_images(masks, images, class_name="cell")
