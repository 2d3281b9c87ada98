"""Pascal VOC's instance PNGs, and what CVAT and labelme make of them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ramses_d2.data.convert.ramses import write_ramses
from ramses_d2.data.convert.voc import read_voc
from ramses_d2.errors import RamsesError
from tests.data.convert.images import read_labels, save_image

# The first colours of VOC's palette, and void, as its documentation lists them
COLOURS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 5: (128, 0, 128), 8: (64, 0, 0), 255: (224, 224, 192)}
AEROPLANE, PERSON = 1, 15
XML = """<annotation><folder>VOC2012</folder><filename>2007_000032.jpg</filename>
<size><width>50</width><height>28</height><depth>3</depth></size><segmented>1</segmented>
<object><name>aeroplane</name><pose>Frontal</pose><truncated>0</truncated><difficult>0</difficult>
 <bndbox><xmin>11</xmin><ymin>3</ymin><xmax>40</xmax><ymax>12</ymax></bndbox></object>
<object><name>person</name><bndbox><xmin>2</xmin><ymin>16</ymin><xmax>9</xmax><ymax>26</ymax></bndbox>
 <part><name>head</name><bndbox><xmin>3</xmin><ymin>16</ymin><xmax>5</xmax><ymax>18</ymax></bndbox></part></object>
</annotation>"""


def palette() -> list[int]:
    colours = np.zeros((256, 3), dtype=np.uint8)
    for index, colour in COLOURS.items():
        colours[index] = colour
    colours[PERSON] = (192, 128, 128)
    return colours.ravel().tolist()


def save_indices(path, indices, mode="P"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indices.astype(np.uint8))
    if mode != "L":
        image.putpalette(palette())
    (image.convert("RGB") if mode == "RGB" else image).save(path)


@pytest.fixture
def devkit(tmp_path):
    """One image as in VOC2012: two objects, each with a void border."""
    folder = tmp_path / "VOC2012"
    name = "2007_000032"
    save_image(folder / f"JPEGImages/{name}.jpg", 28, 50)
    save_image(folder / "JPEGImages/2007_000033.jpg", 28, 50)
    objects, classes = (np.zeros((28, 50), dtype=np.uint8) for _ in range(2))
    for index, class_id, rows, columns in ((1, AEROPLANE, (2, 12), (10, 40)), (2, PERSON, (15, 26), (1, 9))):
        for image, value in ((objects, index), (classes, class_id)):
            image[rows[0] : rows[1], columns[0] : columns[1]] = 255
            image[rows[0] + 1 : rows[1] - 1, columns[0] + 1 : columns[1] - 1] = value
    save_indices(folder / f"SegmentationObject/{name}.png", objects)
    save_indices(folder / f"SegmentationClass/{name}.png", classes)
    (folder / "Annotations").mkdir()
    (folder / f"Annotations/{name}.xml").write_text(XML)
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "ImageSets/Segmentation/train.txt").write_text(f"{name}\n")
    (folder / "ImageSets/Segmentation/val.txt").write_text("2007_000033\n")
    return folder


def convert(folder, tmp_path, **options):
    source = read_voc(folder, **options)
    source.resolution = 1.0
    report = write_ramses(source, tmp_path / "out", force=True)
    return report, pd.read_csv(tmp_path / "out/annotations.csv")


EXPECTED = [[1, "aeroplane", 3, 11, 11, 39, 8 * 28], [2, "person", 16, 2, 25, 8, 9 * 6]]
COLUMNS = ["label", "class", "x0", "y0", "x1", "y1", "area"]


@pytest.mark.parametrize("source", ["xml", "colours", "grey", "RGB"])
def test_a_image_of_the_devkit(devkit, tmp_path, source):
    """Void is background; the class comes from the xml, or without one from the class image."""
    if source != "xml":
        (devkit / "Annotations/2007_000032.xml").unlink()
    if source in ("grey", "RGB"):
        for kind in ("SegmentationObject", "SegmentationClass"):
            path = devkit / kind / "2007_000032.png"
            save_indices(path, np.asarray(Image.open(path)), "L" if source == "grey" else "RGB")
    report, table = convert(devkit, tmp_path, image_set="train")
    assert table[COLUMNS].to_numpy().tolist() == EXPECTED
    assert not +report.notes and len(report.objects) == 20
    labels = read_labels(tmp_path / "out", "2007_000032")
    assert labels[2, 10] == 0 and labels[3, 11] == 1 and labels.max() == 2


def test_the_commonest_colour_is_the_class(devkit, tmp_path):
    (devkit / "Annotations/2007_000032.xml").unlink()
    path = devkit / "SegmentationClass/2007_000032.png"
    indices = np.array(Image.open(path))
    indices[3:5, 11:39] = PERSON  # two of the aeroplane's eight rows
    indices[16:20, 2:8] = AEROPLANE  # four of the person's nine
    save_indices(path, indices)
    assert convert(devkit, tmp_path, image_set="train")[1]["class"].tolist() == ["aeroplane", "person"]


def test_an_xml_in_another_order_is_noticed(devkit, tmp_path):
    path = devkit / "Annotations/2007_000032.xml"
    root = ElementTree.parse(path).getroot()
    first, second = root.findall("object")
    root.remove(first)
    root.append(first)
    ElementTree.ElementTree(root).write(path)
    report, table = convert(devkit, tmp_path, image_set="train")
    assert +report.notes == {"objects whose outline lies outside the box of their place in the xml": 2}


def test_an_xml_with_too_few_objects_is_not_trusted(devkit, tmp_path):
    path = devkit / "Annotations/2007_000032.xml"
    path.write_text(XML[: XML.index("<object><name>person")] + "</annotation>")
    assert convert(devkit, tmp_path, image_set="train")[1]["class"].tolist() == ["aeroplane", "person"]


def test_own_classes_of_cvat_and_labelme(devkit, tmp_path):
    (devkit / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nglass:9,9,9::\nRc:192,128,128::\nRa:128,0,0::\n"
    )
    report, table = convert(devkit, tmp_path)
    assert table["class"].tolist() == ["Ra", "Rc"] and list(report.objects) == ["glass", "Rc", "Ra"]
    (devkit / "labelmap.txt").unlink()
    names = ["__ignore__", "_background_", "Ra", *(f"unused{i}" for i in range(13)), "Rc"]
    (devkit / "class_names.txt").write_text("\n".join(names))
    report, table = convert(devkit, tmp_path)
    assert table["class"].tolist() == ["Ra", "Rc"] and len(report.objects) == 15


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"labelmap.txt": "Ra:1,2,3::\n"}, r"2007_000032\.png: object 1 has no colour of a known class"),
        ({"labelmap.txt": "Ra:red::\n"}, r"labelmap\.txt, row 1: 'Ra:red::' is not of the form"),
        ({"Annotations/2007_000032.xml": "<annotation>"}, r"2007_000032\.xml: not a VOC annotation"),
        ({"Annotations/2007_000032.xml": "<a><object/></a>"}, "not a VOC annotation .an object without a name"),
    ],
)
def test_wrong_files_are_named(devkit, damage, message):
    for name, text in damage.items():
        (devkit / name).write_text(text)
    with pytest.raises(RamsesError, match=message):
        list(read_voc(devkit))


def test_wrong_image_sets_are_named(devkit):
    with pytest.raises(RamsesError, match=r"test\.txt: no such file"):
        read_voc(devkit, "test")
    with pytest.raises(RamsesError, match=r"SegmentationObject/2007_000033\.\* is missing"):
        read_voc(devkit, "val")


def test_an_unknown_colour_is_named(devkit):
    path = devkit / "SegmentationObject/2007_000032.png"
    Image.new("RGB", (50, 28), (1, 2, 3)).save(path)
    with pytest.raises(RamsesError, match=r"2007_000032\.png: colour #010203 is not in VOC's palette"):
        list(read_voc(devkit))


def test_an_image_set_of_a_class_has_a_number_behind_each_name(devkit):
    (devkit / "ImageSets/Segmentation/train.txt").write_text("2007_000032  1\n")
    assert [image.name for image in read_voc(devkit, "train")] == ["2007_000032"]
