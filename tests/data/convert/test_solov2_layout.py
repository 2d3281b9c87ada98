"""The layout of jerome-lux/SOLOv2."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ramses_d2.data.convert.ramses import write_ramses
from ramses_d2.data.convert.solov2 import read_solov2
from ramses_d2.errors import RamsesError
from tests.data.convert.images import read_labels, save_image


@pytest.fixture
def layout(tmp_path):
    """An image as the readme describes it, with a 32-bit label image."""
    folder = tmp_path / "solov2"
    save_image(folder / "images/a.jpg", 30, 50)
    save_image(folder / "images/unlabelled.jpg", 30, 50)
    label_map = np.zeros((30, 50), dtype=np.int32)
    label_map[2:8, 10:30] = 1
    label_map[20:30, 0:5] = 7
    label_map[0, 0] = 9  # nobody's
    (folder / "labels").mkdir()
    Image.fromarray(label_map).save(folder / "labels/a.tif")
    (folder / "annotations").mkdir()
    (folder / "annotations/a.json").write_text(
        '{"7": {"class": "cat", "bbox": [20, 0, 30, 5]}, "1": {"class": "dog", "bbox": [2, 10, 8, 30]},'
        ' "3": {"class": "dog", "bbox": [0, 0, 1, 1]}}'
    )
    return folder


def test_a_folder_of_the_readme(layout, tmp_path):
    source = read_solov2(layout)
    source.resolution = 4.0
    report = write_ramses(source, tmp_path / "out")
    assert report.objects == {"cat": 1, "dog": 1} and +report.notes == {
        "images without a json left out": 1,
        "objects without a pixel left out": 1,
        "label values without a class turned into background": 1,
    }
    expected = np.asarray(Image.open(layout / "labels/a.tif")).copy()
    expected[0, 0] = 0
    np.testing.assert_array_equal(read_labels(tmp_path / "out", "a"), expected)
    table = pd.read_csv(tmp_path / "out/annotations.csv")
    assert table[["label", "class", "x0", "y0", "x1", "y1", "area"]].to_numpy().tolist() == [
        [1, "dog", 2, 10, 8, 30, 120],
        [7, "cat", 20, 0, 30, 5, 50],
    ]


@pytest.mark.parametrize("kind", ["L", "bmp", "P", "I;16"])
def test_label_images_of_all_depths(layout, kind):
    label_map = np.asarray(Image.open(layout / "labels/a.tif"))
    (layout / "labels/a.tif").unlink()
    image = Image.fromarray(label_map.astype(np.uint16 if kind == "I;16" else np.uint8))
    if kind == "P":
        image.putpalette(list(range(256)) * 3)
    image.save(layout / f"labels/a.{'bmp' if kind == 'bmp' else 'png'}")
    (read,) = read_solov2(layout)
    assert read.label_map[25, 2] == 7 and read.label_map[4, 20] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", r"a\.json: entry '' is not of the form"),
        ('{"x": {"class": "cat"}}', r"a\.json: entry 'x' is not of the form"),
        ('{"0": {"class": "cat"}}', r"a\.json: entry '0' is not of the form"),
        ('{"1": {"name": "cat"}}', r"a\.json: entry '1' is not of the form"),
        ('{"1": {"class": "cat", "mass": -2}}', r"a\.json: mass of label 1 is -2"),
        ('{"1": {"class": "cat", "res": 1}, "7": {"class": "cat", "res": 2}}', r"a\.json: several resolutions"),
        ("{", r"a\.json: not a JSON file"),
    ],
)
def test_a_wrong_json_is_named(layout, content, message):
    (layout / "annotations/a.json").write_text(content)
    with pytest.raises(RamsesError, match=message):
        list(read_solov2(layout))


def test_missing_files_are_named(layout):
    (layout / "labels/a.tif").rename(layout / "labels/b.tif")
    with pytest.raises(RamsesError, match=r"a\.json: its label image is missing"):
        read_solov2(layout)
    (layout / "annotations/a.json").unlink()
    with pytest.raises(RamsesError, match="annotations: no json"):
        read_solov2(layout)
