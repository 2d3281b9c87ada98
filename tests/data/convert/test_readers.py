"""Folders as other programs write them, and one fault table for all their readers."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ramses_d2.data.convert import open_images, write_ramses
from ramses_d2.data.convert.common import ConversionReport, Source
from ramses_d2.data.convert.label_images import read_label_images
from ramses_d2.data.convert.open_images import read_open_images
from ramses_d2.data.convert.solov2 import read_solov2
from ramses_d2.data.convert.voc import read_voc
from ramses_d2.data.folder import load_folder
from ramses_d2.errors import RamsesError
from tests.data.convert.helpers import read_labels, save_image


def convert(source: Source, tmp_path: Path, resolution: float = 1.0) -> tuple[ConversionReport, pd.DataFrame]:
    source.resolution = resolution
    report = write_ramses(source, tmp_path / "out", force=True)
    return report, pd.read_csv(tmp_path / "out/annotations.csv", dtype={"baseimg": str})


# Pascal VOC. The first colours of its palette, and void, as its documentation lists them
COLOURS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 5: (128, 0, 128), 8: (64, 0, 0), 255: (224, 224, 192)}
AEROPLANE, PERSON = 1, 15
NAME = "2007_000032"
XML = """<annotation><folder>VOC2012</folder><filename>2007_000032.jpg</filename>
<size><width>50</width><height>28</height><depth>3</depth></size><segmented>1</segmented>
<object><name>aeroplane</name><pose>Frontal</pose><truncated>0</truncated><difficult>0</difficult>
 <bndbox><xmin>11</xmin><ymin>3</ymin><xmax>40</xmax><ymax>12</ymax></bndbox></object>
<object><name>person</name><bndbox><xmin>2</xmin><ymin>16</ymin><xmax>9</xmax><ymax>26</ymax></bndbox>
 <part><name>head</name><bndbox><xmin>3</xmin><ymin>16</ymin><xmax>5</xmax><ymax>18</ymax></bndbox></part></object>
</annotation>"""


def save_indices(path: Path, indices: np.ndarray, mode: str = "P") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for index, colour in (COLOURS | {PERSON: (192, 128, 128)}).items():
        colours[index] = colour
    image = Image.fromarray(indices.astype(np.uint8))
    if mode != "L":
        image.putpalette(colours.ravel().tolist())
    (image.convert("RGB") if mode == "RGB" else image).save(path)


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """One image as in VOC2012: two objects, each with a void border."""
    folder = tmp_path / "VOC2012"
    save_image(folder / f"JPEGImages/{NAME}.jpg", 28, 50)
    save_image(folder / "JPEGImages/2007_000033.jpg", 28, 50)
    objects, classes = (np.zeros((28, 50), dtype=np.uint8) for _ in range(2))
    for index, class_id, box in ((1, AEROPLANE, np.s_[2:12, 10:40]), (2, PERSON, np.s_[15:26, 1:9])):
        for image, value in ((objects, index), (classes, class_id)):
            image[box] = 255
            image[box][1:-1, 1:-1] = value
    save_indices(folder / f"SegmentationObject/{NAME}.png", objects)
    save_indices(folder / f"SegmentationClass/{NAME}.png", classes)
    for name in ("Annotations", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    (folder / f"Annotations/{NAME}.xml").write_text(XML)
    (folder / "ImageSets/Segmentation/train.txt").write_text(f"{NAME}\n")
    (folder / "ImageSets/Segmentation/val.txt").write_text("2007_000033\n")
    return folder


@pytest.mark.parametrize("source", ["xml", "colours", "grey", "RGB"])
def test_an_image_of_the_devkit(devkit, tmp_path, source):
    """Void is background; the class comes from the xml, or without one from the class image."""
    if source != "xml":
        (devkit / f"Annotations/{NAME}.xml").unlink()
    if source in ("grey", "RGB"):
        for kind in ("SegmentationObject", "SegmentationClass"):
            path = devkit / kind / f"{NAME}.png"
            save_indices(path, np.asarray(Image.open(path)), "L" if source == "grey" else "RGB")
    report, table = convert(read_voc(devkit, "train"), tmp_path)
    assert table[["label", "class", "x0", "y0", "x1", "y1", "area"]].to_numpy().tolist() == [
        [1, "aeroplane", 3, 11, 11, 39, 8 * 28],
        [2, "person", 16, 2, 25, 8, 9 * 6],
    ]
    assert not +report.notes and len(report.objects) == 20
    labels = read_labels(tmp_path / "out", NAME)
    assert labels[2, 10] == 0 and labels[3, 11] == 1 and labels.max() == 2


def test_the_commonest_colour_is_the_class(devkit, tmp_path):
    (devkit / f"Annotations/{NAME}.xml").unlink()
    path = devkit / f"SegmentationClass/{NAME}.png"
    indices = np.array(Image.open(path))
    indices[3:5, 11:39] = PERSON  # two of the aeroplane's eight rows
    indices[16:20, 2:8] = AEROPLANE  # four of the person's nine
    save_indices(path, indices)
    assert convert(read_voc(devkit, "train"), tmp_path)[1]["class"].tolist() == ["aeroplane", "person"]


def test_an_xml_in_another_order_is_noticed_and_a_short_one_not_trusted(devkit, tmp_path):
    path = devkit / f"Annotations/{NAME}.xml"
    root = ElementTree.parse(path).getroot()
    first, _ = root.findall("object")
    root.remove(first)
    root.append(first)
    ElementTree.ElementTree(root).write(path)
    report, _ = convert(read_voc(devkit, "train"), tmp_path)
    assert +report.notes == {"objects that lie outside the box of their place in the xml": 2}
    path.write_text(XML[: XML.index("<object><name>person")] + "</annotation>")
    assert convert(read_voc(devkit, "train"), tmp_path)[1]["class"].tolist() == ["aeroplane", "person"]


def test_own_classes_of_cvat_and_labelme(devkit, tmp_path):
    (devkit / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\na:b:9,9,9::\nRc:192,128,128::\nRa: 128,0,0::\n"
    )
    report, table = convert(read_voc(devkit), tmp_path)
    assert table["class"].tolist() == ["Ra", "Rc"] and list(report.objects) == ["a:b", "Rc", "Ra"]
    (devkit / "labelmap.txt").unlink()
    names = ["__ignore__", "_background_", "Ra", *(f"unused{i}" for i in range(13)), "Rc"]
    (devkit / "class_names.txt").write_text("\n".join(names))
    report, table = convert(read_voc(devkit), tmp_path)
    assert table["class"].tolist() == ["Ra", "Rc"] and len(report.objects) == 15


def test_names_of_an_image_set(devkit):
    """VOC's own lists of a class have a number behind the name; a name may have spaces."""
    (devkit / "ImageSets/Segmentation/train.txt").write_text(f"{NAME}  1\n")
    assert [image.name for image in read_voc(devkit, "train")] == [NAME]
    for path in [*devkit.glob(f"*/{NAME}.*")]:
        path.rename(path.with_stem("two  words 1"))
    (devkit / "ImageSets/Segmentation/train.txt").write_text("two  words 1\n")
    assert [image.name for image in read_voc(devkit, "train")] == ["two  words 1"]


# SOLOv2: an image as its readme describes it, with a 32-bit label image


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    folder = tmp_path / "solov2"
    for name in ("a", "unlabelled"):
        save_image(folder / f"images/{name}.jpg", 30, 50)
    label_map = np.zeros((30, 50), dtype=np.int32)
    label_map[2:8, 10:30] = 1
    label_map[20:30, 0:5] = 7
    label_map[0, 0] = 9  # of no object
    (folder / "labels").mkdir()
    Image.fromarray(label_map).save(folder / "labels/a.tif")
    (folder / "annotations").mkdir()
    (folder / "annotations/a.json").write_text(
        '{"7": {"class": "cat", "bbox": [20, 0, 30, 5]}, "1": {"class": "dog", "bbox": [2, 10, 8, 30]},'
        ' "3": {"class": "dog", "bbox": [0, 0, 1, 1]}}'
    )
    return folder


def test_a_folder_of_the_readme(layout, tmp_path):
    report, table = convert(read_solov2(layout), tmp_path)
    assert report.objects == {"cat": 1, "dog": 1} and +report.notes == {
        "images without a json left out": 1,
        "objects without a pixel left out": 1,
        "label values without a class turned into background": 1,
    }
    expected = np.array(Image.open(layout / "labels/a.tif"))
    expected[0, 0] = 0
    np.testing.assert_array_equal(read_labels(tmp_path / "out", "a"), expected)
    assert table[["label", "class", "x0", "y0", "x1", "y1", "area"]].to_numpy().tolist() == [
        [1, "dog", 2, 10, 8, 30, 120],
        [7, "cat", 20, 0, 30, 5, 50],
    ]


# Label images with a class table


def label_map() -> np.ndarray:
    values = np.zeros((20, 30), dtype=np.int64)
    values[1:6, 2:9] = 1
    values[8:12, 20:30] = 2
    values[15:20, 0:4] = 200
    return values


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Label images of the images beside them: ``a`` has one, ``b`` has none."""
    for name in "ab":
        save_image(tmp_path / f"images/{name}.jpg", 20, 30)
    (tmp_path / "masks").mkdir()
    Image.fromarray(label_map().astype(np.uint16)).save(tmp_path / "masks/a.png")
    return tmp_path / "masks"


def read_masks(masks: Path, **options: object) -> Source:
    return read_label_images(masks, masks.parent / "images", **options)


def test_a_class_table_as_csv(masks, tmp_path):
    (tmp_path / "table.csv").write_text("image,label,class\na.jpg, 1 ,Ra\n\na,2,Rb\na,200,Ra\na,77,Ra\nb,1,Rc\n")
    report, table = convert(read_masks(masks, class_table=tmp_path / "table.csv"), tmp_path, 2.5)
    assert report.objects == {"Ra": 2, "Rb": 1, "Rc": 0}
    assert +report.notes == {"images without a label image left out": 1, "objects without a pixel left out": 1}
    np.testing.assert_array_equal(read_labels(tmp_path / "out", "a"), label_map())
    assert table[["label", "class", "area", "x0", "y0", "x1", "y1", "res"]].to_numpy().tolist() == [
        [1, "Ra", 35, 1, 2, 6, 9, 2.5],
        [2, "Rb", 40, 8, 20, 12, 30, 2.5],
        [200, "Ra", 20, 15, 0, 20, 4, 2.5],
    ]
    assert table["mass"].isna().all() and not table["gt_mass"].any()


def test_a_class_table_as_json_and_a_class_for_the_rest(masks, tmp_path):
    (tmp_path / "table.json").write_text(json.dumps({"a": {"2": "Rb"}}))
    (image,) = read_masks(masks, class_table=tmp_path / "table.json", class_name="stone")
    assert image.objects.set_index("label")["class"].to_dict() == {1: "stone", 2: "Rb", 200: "stone"}


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        *((kind, "tif") for kind in ("uint8", "uint16", "int32", "uint32", "bool", "palette")),
        *((kind, "png") for kind in ("uint8", "uint16", "bool", "palette")),
        *((kind, "bmp") for kind in ("uint8", "palette")),
    ],
)
def test_whole_numbers_of_any_depth(masks, kind, suffix):
    (masks / "a.png").unlink()
    values = label_map() > 0 if kind == "bool" else label_map()
    image = Image.fromarray(values.astype("uint8" if kind == "palette" else kind))
    if kind == "palette":
        image.putpalette(list(range(256)) * 3)
    image.save(masks / f"a_cp_masks.{suffix}")
    (read,) = read_masks(masks, class_name="cell", label_suffix="_cp_masks")
    np.testing.assert_array_equal(read.label_map, values)


def test_labels_above_16_bits_are_renumbered(masks, tmp_path):
    (masks / "a.png").unlink()
    Image.fromarray((label_map() * 1_000_003).astype(np.int32)).save(masks / "a.tif")
    (tmp_path / "table.json").write_text(json.dumps({"a": {"2000006": "Rb"}}))
    source = read_masks(masks, class_table=tmp_path / "table.json", class_name="Ra")
    (image,) = source
    assert image.objects[["label", "class"]].to_numpy().tolist() == [[1, "Ra"], [2, "Rb"], [3, "Ra"]]
    np.testing.assert_array_equal(image.label_map, np.searchsorted([0, 1, 2, 200], label_map()))
    assert source.notes["images renumbered because of labels above 65535"] == 1


# Open Images. Ids that a table reader takes for numbers: a float, an integer with leading zeros, infinity
FLOAT_ID, INTEGER_ID, LETTERS_ID = "12345678901234e5", "0001234567890123", "00inf00000000abc"
ORANGE, LEMON, PEOPLE = "/m/0cyhj_", "/m/09k_b", "/m/01g317"


class OpenImages:
    """A folder of Open Images under construction."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.masks = ["MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"]
        self.boxes = [
            "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsInside"
        ]
        (root / "masks").mkdir()
        (root / "names.csv").write_text(f'{ORANGE},Orange\n{LEMON},Lemon\n{PEOPLE},"Person, all"\n')

    def add(self, image_id: str, mid: str, box_id: str, mask: np.ndarray | None, part: str = "") -> None:
        name = f"{image_id}_{mid.replace('/', '')}_{box_id}.png"
        self.masks.append(f"{name},{image_id},{mid},{box_id},0.1,0.9,0.1,0.9,0.62821,0.15808 0.26206 1;0.9 0.4 0")
        if mask is not None:
            (self.root / "masks" / part).mkdir(exist_ok=True)
            Image.fromarray(mask).save(self.root / "masks" / part / name)
        self.box(image_id, mid)

    def box(self, image_id: str, mid: str, group: int = 0) -> None:
        self.boxes.append(f"{image_id},xclick,{mid},1,0.1,0.9,0.1,0.9,0,0,{group},0")

    def read(self, with_boxes: bool = False, **options: object) -> Source:
        (self.root / "seg.csv").write_text("\n".join(self.masks) + "\n")
        (self.root / "bbox.csv").write_text("\n".join(self.boxes) + "\n")
        places = {"class_names": self.root / "names.csv", "masks": self.root / "masks"}
        places |= {"image_folder": self.root / "images", "boxes": self.root / "bbox.csv" if with_boxes else None}
        return read_open_images(self.root / "seg.csv", **places | options)


def rectangle(shape: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


@pytest.fixture
def fruit(tmp_path: Path) -> OpenImages:
    """Three images of 40 x 60; masks of 1.5 times that size (as 1600 to 1024 px), of half of it, and of its own."""
    folder = OpenImages(tmp_path)
    for image_id in (FLOAT_ID, INTEGER_ID, LETTERS_ID):
        save_image(tmp_path / f"images/{image_id}.jpg", 40, 60)
    folder.add(FLOAT_ID, ORANGE, "9a041d52", rectangle((60, 90), (15, 45), (15, 75)))  # large, listed first
    folder.add(FLOAT_ID, LEMON, "b1115fd0", rectangle((20, 30), (10, 12), (15, 20)), part="1")  # small, in front
    eight_bit = rectangle((40, 60), (0, 40), (0, 30)).astype(np.uint8) * 255
    folder.add(INTEGER_ID, ORANGE, "05580497", eight_bit, part="train-masks-0")
    folder.add(INTEGER_ID, PEOPLE, "05580498", rectangle((40, 60), (0, 40), (30, 60)))
    folder.add(LETTERS_ID, LEMON, "05580499", rectangle((40, 60), (3, 9), (4, 6)))
    folder.add("ffffffffffffffff", LEMON, "05580490", None)  # its image was not downloaded
    return folder


@pytest.mark.parametrize("rows_at_once", [200_000, 2])
def test_all_classes(fruit, tmp_path, monkeypatch, rows_at_once):
    monkeypatch.setattr(open_images, "ROWS_AT_ONCE", rows_at_once)
    report, table = convert(fruit.read(), tmp_path)
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
    assert load_folder(tmp_path / "out")[1] == ["Orange", "Lemon", "Person, all"]


@pytest.mark.parametrize("names", [["Lemon", "Orange"], [LEMON, "orange"]])
def test_classes_by_name_or_id_in_their_order(fruit, tmp_path, names):
    report, table = convert(fruit.read(classes=names), tmp_path)
    assert list(report.objects) == ["Lemon", "Orange"] and len(table) == 4


def test_images_per_class(fruit, tmp_path):
    """The first ids first; an image with two classes counts for both."""
    for number, expected in ((1, {INTEGER_ID, LETTERS_ID}), (2, {INTEGER_ID, LETTERS_ID, FLOAT_ID})):
        _, table = convert(fruit.read(classes=["Lemon", "Orange"], images_per_class=number), tmp_path)
        assert set(table["baseimg"]) == expected
    (tmp_path / f"images/{LETTERS_ID}.jpg").unlink()  # now a lemon is only beside a second orange
    _, table = convert(fruit.read(classes=["Lemon", "Orange"], images_per_class=1), tmp_path)
    assert set(table["baseimg"]) == {INTEGER_ID, FLOAT_ID}


def test_missing_masks_are_reported(fruit, tmp_path):
    """One mask for thirty people."""
    for _ in range(29):
        fruit.box(INTEGER_ID, PEOPLE)
    fruit.box(LETTERS_ID, LEMON, group=1)
    fruit.box(LETTERS_ID, PEOPLE)  # not a wanted class below
    report, _ = convert(fruit.read(True, classes=["Person, all", "Lemon", "Orange"]), tmp_path)
    assert report.findings == [
        {"image": INTEGER_ID, "class": "Person, all", "masks": 1, "boxes": 30, "group_boxes": 0},
        {"image": LETTERS_ID, "class": "Person, all", "masks": 0, "boxes": 1, "group_boxes": 0},
        {"image": LETTERS_ID, "class": "Lemon", "masks": 1, "boxes": 1, "group_boxes": 1},
    ]
    assert report.notes["images whose masks miss objects that have boxes"] == 2
    report, _ = convert(fruit.read(True, classes=["Lemon", "Orange"]), tmp_path)
    assert [finding["image"] for finding in report.findings] == [LETTERS_ID]
    report, table = convert(fruit.read(True, complete_only=True), tmp_path)
    assert set(table["baseimg"]) == {FLOAT_ID} and not report.findings
    assert report.notes["images left out because objects have no mask"] == 2


def test_masks_that_cannot_be_used(fruit, tmp_path):
    fruit.add(LETTERS_ID, LEMON, "00000001", None)
    fruit.add(LETTERS_ID, ORANGE, "00000002", rectangle((60, 40), (0, 9), (0, 9)))
    fruit.add(LETTERS_ID, PEOPLE, "00000004", rectangle((40, 60), (20, 30), (20, 30)))
    fruit.add(LETTERS_ID, LEMON, "00000003", rectangle((40, 60), (0, 0), (0, 0)))
    report, table = convert(fruit.read(True), tmp_path)
    assert +report.notes == {
        "masks left out because their PNG is missing": 1,
        "masks left out because they have another shape than their image": 1,
        "masks left out because they are empty": 1,
        "images whose masks miss objects that have boxes": 1,
        "pixels of overlapping objects given to the smaller one": 40,
    }
    assert table.loc[table["baseimg"] == LETTERS_ID, "class"].tolist() == ["Lemon", "Person, all"]


def test_version_7_has_a_header_in_its_class_names(fruit, tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("LabelName,DisplayName\n" + path.read_text())
    assert fruit.read().classes == ["Orange", "Lemon", "Person, all"]
    with pytest.raises(RamsesError, match=r"names\.csv: no class 'DisplayName'"):
        fruit.read(classes=["DisplayName"])


@pytest.mark.parametrize("size", [(40, 60), (60, 90), (53, 80), (107, 160), (13, 20), (20, 30)])
def test_a_resized_disc_keeps_its_place_and_area(tmp_path, size):
    folder = OpenImages(tmp_path)
    save_image(tmp_path / "images/a.jpg", 40, 60)
    y, x = ((np.arange(n) + 0.5) / n for n in size)
    folder.add("a", LEMON, "1", ((y[:, None] * 40 - 22) ** 2 + (x * 60 - 33) ** 2) < 15**2)
    (image,) = folder.read()
    rows, columns = np.nonzero(image.label_map)
    assert abs(len(rows) / (np.pi * 15**2) - 1) < 0.03
    assert abs(rows.mean() + 0.5 - 22) < 0.25 and abs(columns.mean() + 0.5 - 33) < 0.25


# Reader: what is written into its folder (None: removed), its options, and what the message names
FAULTS = {
    "devkit": [
        ({"labelmap.txt": "Ra:1,2,3::\n"}, {}, rf"{NAME}\.png: object 1 "),
        ({"labelmap.txt": "Ra:red::\n"}, {}, r"labelmap\.txt, row 1: 'Ra:red::'"),
        ({f"Annotations/{NAME}.xml": "<annotation>"}, {}, rf"{NAME}\.xml: "),
        ({f"Annotations/{NAME}.xml": "<a><object/></a>"}, {}, rf"{NAME}\.xml: .*without a name"),
        ({f"SegmentationObject/{NAME}.png": None}, {}, "SegmentationObject: no PNG"),
        ({}, {"image_set": "test"}, r"test\.txt: no such file"),
        ({}, {"image_set": "val"}, r"SegmentationObject/2007_000033\.\* is missing"),
        ({f"JPEGImages/{NAME}.jpg": None}, {}, rf"JPEGImages/{NAME}\.\* is missing"),
        ({f"SegmentationObject/{NAME}.png": (28, 50)}, {}, r"png: colour #010203"),
        ({f"Annotations/{NAME}.xml": None, f"SegmentationClass/{NAME}.png": (9, 9)}, {}, r"Class.*png: .* size"),
    ],
    "layout": [
        ({"annotations/a.json": "[1, 2]"}, {}, r"a\.json: entry ''"),
        ({"annotations/a.json": '{"x": {"class": "cat"}}'}, {}, r"a\.json: entry 'x'"),
        ({"annotations/a.json": '{"0": {"class": "cat"}}'}, {}, r"a\.json: entry '0'"),
        ({"annotations/a.json": '{"1": {"name": "cat"}}'}, {}, r"a\.json: entry '1'"),
        ({"annotations/a.json": '{"1": {"class": "cat", "mass": -2}}'}, {}, r"a\.json: mass of label 1 is -2"),
        (
            {"annotations/a.json": '{"1": {"class": "cat", "res": 1}, "7": {"class": "cat", "res": 2}}'},
            *({}, r"a\.json: several resolutions"),
        ),
        ({"annotations/a.json": "{"}, {}, r"a\.json: not a JSON file"),
        ({"labels/a.tif": None}, {}, r"a\.json: its label image is missing"),
        ({"annotations/a.json": None}, {}, "annotations: no json"),
        ({"images/a.png": (9, 9)}, {}, r"a\.png: a second file"),
    ],
    "masks": [
        *(
            ({"../t.csv": f"image,label,class\n{rows}"}, {"class_table": "../t.csv"}, message)
            for rows, message in (
                ("a,1.5,Ra\n", r"t\.csv, row 2: label is '1.5'"),
                ("a,1,Ra\na,0,Ra\n", r"t\.csv, row 3: label is '0'"),
                ("a,1,Ra\n\n\nc,1,Ra\n", r"t\.csv, row 5: there is no image 'c'"),
                ("a,1,Ra\na.jpg,1,Rb\n", r"t\.csv, row 3: label 1 of a\.jpg"),
                ("a,1,\n", r"t\.csv, row 2: label 1 has no class"),
                ("a,1,Ra\na,2,Ra\n", r"a\.png: label 200 \(1 of 3\)"),
            )
        ),
        ({"../t.csv": "image,class\na,Ra\n"}, {"class_table": "../t.csv"}, r"t\.csv: columns .*label"),
        ({"../t.csv": ""}, {"class_table": "../t.csv"}, r"t\.csv: not a comma-separated table"),
        ({}, {"class_table": "../t.csv"}, r"t\.csv: no such file"),
        ({"../t.json": '{"a": 3}'}, {"class_table": "../t.json"}, r"t\.json: "),
        ({}, {}, "masks: label images do not say classes"),
        ({}, {"class_name": "cell", "label_suffix": "_seg"}, "masks: .*'_seg'"),
        ({"c.png": (9, 9)}, {"class_name": "cell"}, r"c\.\* is missing in"),
        ({"a.png": (20, 30)}, {"class_name": "cell"}, r"a\.png: .*20 x 30 x 3"),
        ({"a.png": "no image"}, {"class_name": "cell"}, r"a\.png: the image cannot be read"),
        ({"a.png": None, "a.tif": np.full((20, 30), -1, np.int32)}, {"class_name": "cell"}, r"a\.tif: .*negative"),
    ],
    "fruit": [
        ({}, {"classes": ["Pear"]}, r"names\.csv: no class 'Pear'"),
        ({}, {"complete_only": True}, "complete images cannot be told"),
        ({}, {"images_per_class": 0}, "images per class is 0"),
        ({"names.csv": "a,b,c\n"}, {}, r"names\.csv: has 3 columns"),
        ({"names.csv": f"{ORANGE},Orange\n"}, {}, rf"names\.csv: class {PEOPLE}"),
        ({"names.csv": None}, {}, r"names\.csv: no such file"),
        ({"other.csv": "ImageID,LabelName\n"}, {"boxes": "other.csv"}, r"other\.csv: column IsGroupOf is missing"),
        ({}, {"boxes": "nowhere.csv"}, r"nowhere\.csv: no such file"),
        ({}, {"image_folder": "nowhere"}, "nowhere: no such folder"),
        ({}, {"image_folder": "masks/1"}, r"seg\.csv: no mask of the wanted classes for an image in .*masks/1"),
        ({}, {"masks": "images"}, "images: no image is left"),
    ],
}
READERS: dict[str, Callable[..., Source]] = {"devkit": read_voc, "layout": read_solov2, "masks": read_masks}


@pytest.mark.parametrize(("name", "number"), [(name, i) for name, faults in FAULTS.items() for i in range(len(faults))])
def test_what_is_wrong_is_named(request, tmp_path, name, number):
    files, options, message = FAULTS[name][number]
    folder = request.getfixturevalue(name)
    root = tmp_path if name == "fruit" else folder
    for file, content in files.items():
        if content is None:
            (root / file).unlink()
        elif isinstance(content, str):
            (root / file).write_text(content)
        elif isinstance(content, np.ndarray):
            Image.fromarray(content).save(root / file)
        else:
            Image.new("RGB", content[::-1], (1, 2, 3)).save(root / file)
    paths = {"class_table", "boxes", "image_folder", "masks"}
    options = {key: root / value if key in paths else value for key, value in options.items()}
    with pytest.raises(RamsesError, match=message):
        list(folder.read(**options) if name == "fruit" else READERS[name](folder, **options))
