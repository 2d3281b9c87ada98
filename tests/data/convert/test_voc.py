"""Pascal VOC's instance PNGs, and what CVAT and labelme make of them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ramses_d2.data.convert.source import Source, SourceImage
from ramses_d2.data.convert.voc import read_voc, write_voc
from ramses_d2.data.convert.writer import write_ramses
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


def test_what_is_written(tmp_path):
    path = save_image(tmp_path / "a.jpg", 30, 20)
    label_map = np.zeros((30, 20), dtype=int)
    label_map[4:9, 1:3] = 300
    label_map[20:30, 10:20] = 7
    objects = pd.DataFrame(
        {"label": [300, 7], "class": ["Ra", "Rb"], "mass": [2.5, np.nan], "gt_mass": [True, False], "F": [1.0, 2.0]}
    )
    source = Source("here", ["Rb", "Rc", "Ra"], [SourceImage("a", path, label_map, objects, 3.0)], 1)
    write_voc(source, tmp_path / "out")
    for kind, values in (("SegmentationObject", {7: 1, 300: 2}), ("SegmentationClass", {7: 1, 300: 3})):
        with Image.open(tmp_path / f"out/{kind}/a.png") as image:
            assert image.mode == "P"
            indices = np.asarray(image)
            colours = np.reshape(image.getpalette(), (-1, 3))
        for label, value in values.items():
            assert set(indices[label_map == label]) == {value}
        assert not indices[label_map == 0].any()
        for index, colour in COLOURS.items():
            assert index >= len(colours) or tuple(colours[index]) == colour
    root = ElementTree.parse(tmp_path / "out/Annotations/a.xml").getroot()
    assert [root.findtext(f"size/{tag}") for tag in ("width", "height", "depth")] == ["20", "30", "3"]
    assert (
        root.findtext("folder") == "out" and root.findtext("filename") == "a.jpg" and root.findtext("segmented") == "1"
    )
    found = [
        (each.findtext("name"), *(int(each.findtext(f"bndbox/{tag}")) for tag in ("xmin", "ymin", "xmax", "ymax")))
        for each in root.iter("object")
    ]
    assert found == [("Rb", 11, 21, 20, 30), ("Ra", 2, 5, 3, 9)]  # counted from 1, ends included
    assert (tmp_path / "out/ImageSets/Segmentation/default.txt").read_text() == "a\n"
    lines = (tmp_path / "out/labelmap.txt").read_text().splitlines()
    assert lines[1:] == ["background:0,0,0::", "Rb:128,0,0::", "Rc:0,128,0::", "Ra:128,128,0::"]


def exported(folder: Path, name: str, classes: list[str]) -> Path:
    """A VOC export of one image, with one object of each class."""
    path = save_image(folder / f"{name}.png", 8, 10)
    label_map = np.zeros((8, 10), dtype=int)
    label_map[2:5, : len(classes)] = np.arange(1, len(classes) + 1)
    objects = pd.DataFrame({"label": np.arange(1, len(classes) + 1), "class": classes})
    write_voc(Source("here", classes, [SourceImage(name, path, label_map, objects)], 1), folder / "out")
    return folder / "out"


@pytest.mark.parametrize("name", ["my picture", "two  words 1", "gr\u00fcn"])
def test_its_own_image_set_is_read_again(tmp_path, name):
    (image,) = read_voc(exported(tmp_path, name, ["Ra"]), "default")
    assert image.name == name


def test_an_image_set_of_a_class_has_a_number_behind_each_name(devkit):
    (devkit / "ImageSets/Segmentation/train.txt").write_text("2007_000032  1\n")
    assert [image.name for image in read_voc(devkit, "train")] == ["2007_000032"]


def test_class_names_that_are_read_again(tmp_path):
    names = ["a:b", "x:1", "Glas & Stein", "1,2,3", "#".join("ab"), "Background"]
    source = read_voc(exported(tmp_path, "a", names))
    assert source.classes == names
    (image,) = source
    assert image.objects["class"].tolist() == names


@pytest.mark.parametrize("name", ["#1", "background", " a", "a\nb", "", "a:1,2,3"])
def test_class_names_that_a_label_map_cannot_hold(tmp_path, name):
    with pytest.raises(RamsesError, match=re.escape(f"class {name!r}: a VOC label map cannot hold this name; rename")):
        exported(tmp_path, "a", ["Ra", name])
    assert not (tmp_path / "out").exists()


def test_a_turned_image_is_written_upright(tmp_path):
    path = save_image(tmp_path / "a.jpg", 20, 30, orientation=8)
    objects = pd.DataFrame({"label": [1], "class": ["Ra"]})
    source = Source("here", ["Ra"], [SourceImage("a", path, np.ones((30, 20), dtype=int), objects)], 1)
    report = write_voc(source, tmp_path / "out")
    assert +report.notes == {"images with an EXIF orientation written anew, upright": 1}
    with Image.open(tmp_path / "out/JPEGImages/a.jpg") as image:
        assert image.size == (20, 30) and image.getexif().get(0x0112, 1) == 1


def test_more_objects_than_a_palette_holds(tmp_path):
    path = save_image(tmp_path / "a.png", 16, 17)
    label_map = np.arange(16 * 17).reshape(16, 17)
    for count, fits in ((254, True), (255, False)):
        objects = pd.DataFrame({"label": np.arange(1, count + 1), "class": "Ra"})
        source = Source("here", ["Ra"], [SourceImage("a", path, label_map, objects, 3.0)], 1)
        if fits:
            write_voc(source, tmp_path / "out")
            (image,) = read_voc(tmp_path / "out")
            assert len(image.objects) == 254
        else:
            with pytest.raises(RamsesError, match=r"a\.png: 255 objects; a VOC image holds 254"):
                write_voc(source, tmp_path / "more")
