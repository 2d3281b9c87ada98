"""Open Images V5: tables and masks as they are distributed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ramses_d2.data.convert import open_images
from ramses_d2.data.convert.open_images import read_open_images
from ramses_d2.data.convert.ramses import write_ramses
from ramses_d2.data.folder import load_folder
from ramses_d2.errors import RamsesError
from tests.data.convert.images import read_labels, save_image

# Ids that a table reader takes for numbers: a float, an integer with leading zeros, infinity
FLOAT_ID, INTEGER_ID, LETTERS_ID = "12345678901234e5", "0001234567890123", "00inf00000000abc"
HEADER = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"
BOXES_HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)
ORANGE, LEMON, PERSON = "/m/0cyhj_", "/m/09k_b", "/m/01g317"


class Folder:
    """A folder of Open Images under construction."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.masks: list[str] = []
        self.boxes: list[str] = []
        (root / "masks").mkdir()
        (root / "class-descriptions-boxable.csv").write_text(
            f'{ORANGE},Orange\n{LEMON},Lemon\n{PERSON},"Person, all"\n'
        )

    def add(self, image_id: str, mid: str, box_id: str, mask: np.ndarray | None, part: str = "", boxed: bool = True):
        name = f"{image_id}_{mid.replace('/', '')}_{box_id}.png"
        clicks = "0.15808 0.26206 1;0.90333 0.41076 0"
        self.masks.append(f"{name},{image_id},{mid},{box_id},0.1,0.9,0.1,0.9,0.62821,{clicks}")
        if mask is not None:
            (self.root / "masks" / part).mkdir(exist_ok=True)
            Image.fromarray(mask).save(self.root / "masks" / part / name)
        if boxed:
            self.box(image_id, mid)

    def box(self, image_id: str, mid: str, group: int = 0) -> None:
        self.boxes.append(f"{image_id},xclick,{mid},1,0.1,0.9,0.1,0.9,0,0,{group},0,0")

    def files(self, boxes: bool = False) -> dict:
        (self.root / "seg.csv").write_text("\n".join([HEADER, *self.masks]) + "\n")
        (self.root / "bbox.csv").write_text("\n".join([BOXES_HEADER, *self.boxes]) + "\n")
        return {
            "masks_csv": self.root / "seg.csv",
            "class_names": self.root / "class-descriptions-boxable.csv",
            "masks": self.root / "masks",
            "image_folder": self.root / "images",
            "boxes": self.root / "bbox.csv" if boxes else None,
        }


def rectangle(shape: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


@pytest.fixture
def folder(tmp_path):
    """Three images of 40 x 60; masks of 1.5 times that size (as 1600 to 1024 px), of half of it, and of its own."""
    folder = Folder(tmp_path)
    for image_id in (FLOAT_ID, INTEGER_ID, LETTERS_ID):
        save_image(tmp_path / f"images/{image_id}.jpg", 40, 60)
    folder.add(FLOAT_ID, ORANGE, "9a041d52", rectangle((60, 90), (15, 45), (15, 75)))  # large, listed first
    folder.add(FLOAT_ID, LEMON, "b1115fd0", rectangle((20, 30), (10, 12), (15, 20)), part="1")  # small, in front
    eight_bit = rectangle((40, 60), (0, 40), (0, 30)).astype(np.uint8) * 255
    folder.add(INTEGER_ID, ORANGE, "05580497", eight_bit, part="train-masks-0")
    folder.add(INTEGER_ID, PERSON, "05580498", rectangle((40, 60), (0, 40), (30, 60)))
    folder.add(LETTERS_ID, LEMON, "05580499", rectangle((40, 60), (3, 9), (4, 6)))
    folder.add("ffffffffffffffff", LEMON, "05580490", None)  # its image was not downloaded
    return folder


def convert(source, tmp_path):
    source.resolution = 1.0
    report = write_ramses(source, tmp_path / "out", force=True)
    return report, pd.read_csv(tmp_path / "out/annotations.csv", dtype={"baseimg": str})


def test_all_classes(folder, tmp_path):
    report, table = convert(read_open_images(**folder.files()), tmp_path)
    assert report.objects == {"Orange": 2, "Lemon": 2, "Person, all": 1}
    assert +report.notes == {"pixels of overlapping objects given to the smaller one": 40}
    expected = np.zeros((40, 60), dtype=int)
    expected[10:30, 10:50] = 1
    expected[20:24, 30:40] = 2
    np.testing.assert_array_equal(read_labels(tmp_path / "out", FLOAT_ID), expected)
    assert table[["baseimg", "label", "class", "area", "x0", "y0", "x1", "y1"]].to_numpy().tolist() == [
        [INTEGER_ID, 1, "Orange", 1200, 0, 0, 40, 30],
        [INTEGER_ID, 2, "Person, all", 1200, 0, 30, 40, 60],
        [LETTERS_ID, 1, "Lemon", 12, 3, 4, 9, 6],
        [FLOAT_ID, 1, "Orange", 760, 10, 10, 30, 50],
        [FLOAT_ID, 2, "Lemon", 40, 20, 30, 24, 40],
    ]
    dataset_dicts, classes = load_folder(tmp_path / "out")
    assert classes == ["Orange", "Lemon", "Person, all"] and len(dataset_dicts) == 3


@pytest.mark.parametrize("names", [["Lemon", "Orange"], [LEMON, "orange"]])
def test_classes_by_name_or_id_in_their_order(folder, tmp_path, names):
    report, table = convert(read_open_images(**folder.files(), classes=names), tmp_path)
    assert list(report.objects) == ["Lemon", "Orange"] and len(table) == 4


def test_images_per_class(folder, tmp_path):
    """The first ids first; an image with two classes counts for both."""
    _, table = convert(read_open_images(**folder.files(), classes=["Lemon", "Orange"], images_per_class=1), tmp_path)
    assert set(table["baseimg"]) == {INTEGER_ID, LETTERS_ID}
    _, table = convert(read_open_images(**folder.files(), classes=["Lemon", "Orange"], images_per_class=2), tmp_path)
    assert set(table["baseimg"]) == {INTEGER_ID, LETTERS_ID, FLOAT_ID}
    (tmp_path / f"images/{LETTERS_ID}.jpg").unlink()  # now a lemon is only beside a second orange
    _, table = convert(read_open_images(**folder.files(), classes=["Lemon", "Orange"], images_per_class=1), tmp_path)
    assert set(table["baseimg"]) == {INTEGER_ID, FLOAT_ID}


def test_missing_masks_are_reported(folder, tmp_path):
    """Eight masks for thirty people."""
    for _ in range(29):
        folder.box(INTEGER_ID, PERSON)
    folder.box(LETTERS_ID, LEMON, group=1)
    folder.box(LETTERS_ID, PERSON)  # not a wanted class below
    report, _ = convert(
        read_open_images(**folder.files(boxes=True), classes=["Person, all", "Lemon", "Orange"]), tmp_path
    )
    assert report.findings == [
        {"image": INTEGER_ID, "class": "Person, all", "masks": 1, "boxes": 30, "group_boxes": 0},
        {"image": LETTERS_ID, "class": "Person, all", "masks": 0, "boxes": 1, "group_boxes": 0},
        {"image": LETTERS_ID, "class": "Lemon", "masks": 1, "boxes": 1, "group_boxes": 1},
    ]
    assert report.notes["images whose masks miss objects that have boxes"] == 2
    report, table = convert(read_open_images(**folder.files(boxes=True), classes=["Lemon", "Orange"]), tmp_path)
    assert [finding["image"] for finding in report.findings] == [LETTERS_ID]
    report, table = convert(read_open_images(**folder.files(boxes=True), complete_only=True), tmp_path)
    assert set(table["baseimg"]) == {FLOAT_ID} and not report.findings
    assert report.notes["images left out because objects have no mask"] == 2


def test_masks_that_cannot_be_used(folder, tmp_path):
    folder.add(LETTERS_ID, LEMON, "00000001", None)
    folder.add(LETTERS_ID, ORANGE, "00000002", rectangle((60, 40), (0, 9), (0, 9)))
    folder.add(LETTERS_ID, PERSON, "00000004", rectangle((40, 60), (20, 30), (20, 30)))
    folder.add(LETTERS_ID, LEMON, "00000003", rectangle((40, 60), (0, 0), (0, 0)))
    report, table = convert(read_open_images(**folder.files(boxes=True)), tmp_path)
    assert +report.notes == {
        "masks left out because their PNG is missing": 1,
        "masks left out because they have another shape than their image": 1,
        "masks left out because they are empty": 1,
        "images whose masks miss objects that have boxes": 1,
        "pixels of overlapping objects given to the smaller one": 40,
    }
    assert table.loc[table["baseimg"] == LETTERS_ID, "class"].tolist() == ["Lemon", "Person, all"]


def test_the_tables_are_read_in_pieces(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(open_images, "ROWS_AT_ONCE", 2)
    report, table = convert(read_open_images(**folder.files(boxes=True)), tmp_path)
    assert len(table) == 5


def test_version_7_has_a_header_in_its_class_names(folder, tmp_path):
    path = tmp_path / "class-descriptions-boxable.csv"
    path.write_text("LabelName,DisplayName\n" + path.read_text())
    assert read_open_images(**folder.files()).classes == ["Orange", "Lemon", "Person, all"]
    with pytest.raises(RamsesError, match="no class 'DisplayName'"):
        read_open_images(**folder.files(), classes=["DisplayName"])


@pytest.mark.parametrize("size", [(40, 60), (60, 90), (53, 80), (107, 160), (13, 20), (20, 30)])
def test_a_resized_disc_keeps_its_place_and_area(tmp_path, size):
    folder = Folder(tmp_path)
    save_image(tmp_path / "images/a.jpg", 40, 60)
    y, x = ((np.arange(n) + 0.5) / n for n in size)
    disc = ((y[:, None] * 40 - 22) ** 2 + (x * 60 - 33) ** 2) < 15**2
    folder.add("a", LEMON, "1", disc)
    (image,) = read_open_images(**folder.files())
    rows, columns = np.nonzero(image.label_map)
    assert abs(len(rows) / (np.pi * 15**2) - 1) < 0.03
    assert abs(rows.mean() + 0.5 - 22) < 0.25 and abs(columns.mean() + 0.5 - 33) < 0.25


def test_what_is_wrong_is_named(folder, tmp_path):
    files = folder.files(boxes=True)
    with pytest.raises(RamsesError, match=r"boxable\.csv: no class 'Pear'"):
        read_open_images(**files, classes=["Pear"])
    with pytest.raises(RamsesError, match="complete images cannot be told"):
        read_open_images(**folder.files(), complete_only=True)
    with pytest.raises(RamsesError, match="images per class is 0"):
        read_open_images(**files, images_per_class=0)
    files["boxes"].write_text("ImageID,LabelName\n")
    with pytest.raises(RamsesError, match=r"bbox\.csv: column IsGroupOf is missing"):
        read_open_images(**files)
    (tmp_path / "images").rename(tmp_path / "other")
    with pytest.raises(RamsesError, match="images: no such folder"):
        read_open_images(**files)
    save_image(tmp_path / "images/unknown.jpg", 40, 60)
    with pytest.raises(RamsesError, match=r"seg\.csv: no mask of the wanted classes for an image in"):
        read_open_images(**files)
