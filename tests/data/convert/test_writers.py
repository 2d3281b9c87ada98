"""What is written, what is replaced, and what is left behind when it fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pycocotools.mask as mask_utils
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from ramses_d2.data.catalog import register
from ramses_d2.data.convert import coco, read_coco, read_ramses, write_coco, write_ramses
from ramses_d2.data.convert.coco import coco_segmentation
from ramses_d2.data.convert.common import IMAGE_MODES, Source, SourceImage
from ramses_d2.data.folder import load_folder
from ramses_d2.errors import RamsesError
from ramses_d2.masks import paint_segmentations
from tests.data.convert.helpers import make_source, save_image


def source(tmp_path: Path, resolution: float = 2.0, suffix: str = ".png", **columns: object) -> Source:
    label_map = np.zeros((20, 30), dtype=int)
    label_map[2:5, 3:10] = 4
    made = make_source(save_image(tmp_path / f"in/a{suffix}", 20, 30), label_map, ["Ra"], resolution, **columns)
    made.classes = ["Rb", "Ra"]
    return made


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder(tmp_path):
    data = source(tmp_path, radius=[1.5], F=[2.0])
    data.batches = [{"image_names": ["a.png"], "mass": {"Ra": float("nan")}}]
    out = tmp_path / "deep/out"
    report = write_ramses(data, out)
    assert '"Ra": null' in (out / "metadata.json").read_text()
    assert everything(out) == [
        *("annotations.csv", "classes.json", "conversion.json", "images", "images/a.png"),
        *("labels", "labels/a.png", "metadata.json"),
    ]
    # The original's column order; what it does not know comes last
    assert (out / "annotations.csv").read_text().splitlines() == [
        "label,baseimg,area,x0,y0,x1,y1,radius,class,res,mass,gt_mass,height,width,F",
        "4,a,21,2,3,5,10,1.5,Ra,2.0,NaN,False,20,30,2.0",
    ]
    assert report.lines() == [f"wrote 1 images, 1 objects (Rb 0, Ra 1) to {out}", f"  use ramses://{out}"]
    written = json.loads((out / "conversion.json").read_text())
    assert (written["objects"], written["source"], written["pictures"]) == ({"Rb": 0, "Ra": 1}, "somewhere", 1)
    assert load_folder(out)[1] == ["Rb", "Ra"]


def test_what_happens_to_the_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for mode in IMAGE_MODES:
        write_ramses(source(Path()), tmp_path / mode, images=mode)
    original = tmp_path / "in/a.png"
    assert (tmp_path / "copy/images/a.png").read_bytes() == original.read_bytes()
    assert not (tmp_path / "copy/images/a.png").is_symlink()
    assert os.readlink(tmp_path / "link/images/a.png") == str(original.resolve())
    assert not list((tmp_path / "none/images").iterdir())
    with pytest.raises(RamsesError, match="'move'.*copy, link, none"):
        write_ramses(source(tmp_path), tmp_path / "move", images="move")
    with pytest.raises(RamsesError, match=r"a\.gif"):
        write_ramses(source(tmp_path, suffix=".gif"), tmp_path / "gif")

    def no_links(*_: object) -> None:
        raise OSError(1, "no links here")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    with pytest.raises(RamsesError, match=r"a\.png: cannot link .*no links here"):
        write_ramses(source(tmp_path), tmp_path / "linked", images="link")


def test_nothing_is_left_of_a_failure(tmp_path, monkeypatch):
    with pytest.raises(RamsesError, match="--resolution"):
        write_ramses(source(tmp_path, resolution=np.nan), tmp_path / "out")
    broken = source(tmp_path)
    broken.images = [*broken.images, SourceImage("b", tmp_path / "missing.png", np.zeros((2, 2)), pd.DataFrame())]
    for write, name in ((write_ramses, "out"), (write_coco, "out"), (write_coco, "out.json")):
        with pytest.raises(RamsesError, match=r"missing\.png"):
            write(broken, tmp_path / name)

    def full_disk(path: Path, content: object, **options: object) -> None:
        path.write_text("{")
        raise OSError("no space left on device")

    monkeypatch.setattr(coco, "write_json", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_coco(source(tmp_path), tmp_path / "out.json")
    assert everything(tmp_path) == ["in", "in/a.png"]


def test_force_replaces_its_own_work_only(tmp_path):
    out = tmp_path / "out"
    write_ramses(source(tmp_path), out)
    with pytest.raises(RamsesError, match="--force"):
        write_ramses(source(tmp_path), out)
    write_ramses(source(tmp_path, mass=[3.0]), out, force=True)
    assert pd.read_csv(out / "annotations.csv")["mass"].tolist() == [3.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    (out / "conversion.json").unlink()
    with pytest.raises(RamsesError, match=r"conversion\.json"):
        write_ramses(source(tmp_path), out, force=True)
    with pytest.raises(RamsesError, match="is a file"):
        write_ramses(source(tmp_path), tmp_path / "in/a.png", force=True)


def test_force_never_replaces_what_is_being_read(tmp_path):
    write_coco(source(tmp_path), tmp_path / "coco")
    write_coco(source(tmp_path), tmp_path / "json", images="none")
    write_ramses(source(tmp_path), tmp_path / "out")
    for output, write, made in (
        ("coco", write_ramses, read_coco(tmp_path / "coco/annotations.json")),
        ("json", write_ramses, read_coco(tmp_path / "json/annotations.json", tmp_path / "in")),
        ("out", write_coco, read_ramses(tmp_path / "out")),
        ("out", write_coco, read_ramses(f"ramses://{tmp_path / 'out'}")),
    ):
        with pytest.raises(RamsesError, match="holds what is to be converted"):
            write(made, tmp_path / output, force=True)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_force_never_replaces_what_links_lead_to(tmp_path, kind):
    out, other = tmp_path / "out", tmp_path / "other"
    write_coco(source(tmp_path), out)
    (other if kind == "folder" else other / "images").mkdir(parents=True)
    link = "images" if kind == "folder" else "images/a.png"
    (other / link).symlink_to(out / link)
    (other / "annotations.json").write_bytes((out / "annotations.json").read_bytes())
    with pytest.raises(RamsesError, match="holds what is to be converted"):
        write_ramses(read_coco(other / "annotations.json"), out, force=True)
    assert (out / "images/a.png").is_file()


def test_a_link_to_a_folder_leads_to_the_new_one(tmp_path):
    write_ramses(source(tmp_path), tmp_path / "out")
    (tmp_path / "link").symlink_to("out")
    write_ramses(source(tmp_path, mass=[3.0]), tmp_path / "link", force=True)
    assert os.readlink(tmp_path / "link") == "out" and not (tmp_path / "out").is_symlink()
    assert pd.read_csv(tmp_path / "out/annotations.csv")["mass"].tolist() == [3.0]


@pytest.mark.parametrize("scheme", ["", "ramses://"])
def test_an_empty_working_directory_can_be_filled(tmp_path, monkeypatch, scheme):
    write_ramses(source(tmp_path), tmp_path / "first")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_coco(read_ramses(f"{scheme}../first"), ".")
    assert Path("annotations.json").is_file()
    with pytest.raises(RamsesError, match="is the working directory"):
        write_ramses(read_ramses(f"{scheme}../first"), ".", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "here", "in"]


@pytest.mark.parametrize("name", ["out%41", "out#1", "out&images=1", "out?y", "out put=\u00fc"])
def test_the_uri_leads_to_what_was_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for write, output in ((write_ramses, "ramses"), (write_coco, "coco"), (write_coco, "a.json")):
        uri = write(source(Path(name)), f"{name}/{output}").uri
        (dataset_dict,) = DatasetCatalog.get(register(uri))
        assert Path(dataset_dict["file_name"]).is_relative_to(tmp_path / name)
        DatasetCatalog.remove(uri)
        MetadataCatalog.remove(uri)


def test_force_and_a_json(tmp_path):
    path = tmp_path / "a.json"
    write_coco(source(tmp_path), path)
    with pytest.raises(RamsesError, match=r"a\.json exists"):
        write_coco(source(tmp_path), path)
    write_coco(source(tmp_path, mass=[2.5]), path, force=True, segmentation="rle")
    assert json.loads(path.read_text())["annotations"][0]["mass"] == 2.5
    for content in ('{"info": {"contributor": "COCO Consortium"}}', '{"images": []}', "[]", "no json"):
        path.write_text(content)
        with pytest.raises(RamsesError, match=r"a\.json was not written by a conversion"):
            write_coco(source(tmp_path), path, force=True)
        assert path.read_text() == content
    with pytest.raises(RamsesError, match="'mask'.*auto, polygons, rle"):
        write_coco(source(tmp_path), tmp_path / "b.json", segmentation="mask")


def test_an_empty_image_needs_a_resolution_that_can_be_told(tmp_path):
    data = source(tmp_path)
    path = save_image(tmp_path / "in/b.png", 4, 4)
    empty = SourceImage("b", path, np.zeros((4, 4), dtype=int), pd.DataFrame(columns=["label", "class"]))
    data.images = [empty, *data.images]
    write_ramses(data, tmp_path / "one")
    assert {dataset_dict["resolution"] for dataset_dict in load_folder(tmp_path / "one")[0]} == {2.0}
    other = source(tmp_path, resolution=3.0).images[0]
    other.name = "c"
    for images in ([*data.images, other], [empty]):
        data.images = images
        with pytest.raises(RamsesError, match=r"b\.png: an image without objects"):
            write_ramses(data, tmp_path / "two")
    data.resolution = 5.0
    write_ramses(data, tmp_path / "two")
    assert load_folder(tmp_path / "two")[0][0]["resolution"] == 5.0


@pytest.mark.parametrize(
    ("size", "columns", "message"),
    [((256, 257), {}, "65791 objects.*65535"), ((2, 2), {"mass": 0.0}, "0 g"), ((2, 2), {"mass": np.inf}, "inf g")],
)
def test_what_no_format_holds(tmp_path, size, columns, message):
    label_map = np.arange(size[0] * size[1]).reshape(size)
    data = make_source(save_image(tmp_path / "a.png", *size), label_map, "stone", 1.0, **columns)
    with pytest.raises(RamsesError, match=rf"a\.png: .*{message}"):
        write_ramses(data, tmp_path / "out")


# Masks as COCO segmentations

SHAPE = (40, 50)


def full(mask: np.ndarray, x0: int, y0: int) -> np.ndarray:
    image = np.zeros(SHAPE, dtype=bool)
    image[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]] = mask
    return image


def decoded(segmentation: object) -> np.ndarray:
    """As pycocotools.COCO.annToMask."""
    rle = segmentation
    if isinstance(segmentation, list):
        rle = mask_utils.merge(mask_utils.frPyObjects(segmentation, *SHAPE))
    return mask_utils.decode(rle).astype(bool)


@settings(max_examples=300, deadline=None)
@given(
    mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)).filter(lambda mask: mask.any()),
    x0=st.integers(0, 38),
    y0=st.integers(0, 28),
)
def test_every_mask_comes_back_exactly(mask, x0, y0):
    for kind in ("auto", "rle"):
        segmentation, exact = coco_segmentation(mask, x0, y0, SHAPE, kind)
        assert exact and (kind == "auto" or isinstance(segmentation["counts"], str))
        np.testing.assert_array_equal(decoded(segmentation), full(mask, x0, y0))
        np.testing.assert_array_equal(paint_segmentations([segmentation], [1], SHAPE), full(mask, x0, y0))


@settings(max_examples=200, deadline=None)
@given(mask=arrays(bool, (14, 16)))
def test_what_has_no_hole_is_a_polygon(mask):
    # Without thin spots, as outlines of things are
    mask = ndimage.binary_fill_holes(ndimage.binary_opening(ndimage.binary_dilation(mask), np.ones((2, 2))))
    if mask.any():
        assert isinstance(coco_segmentation(mask, 3, 4, SHAPE)[0], list)


def test_holes_need_rle():
    mask = np.ones((8, 9), dtype=bool)
    mask[3:5, 4:6] = False
    segmentation, exact = coco_segmentation(mask, 1, 2, SHAPE)
    assert isinstance(segmentation, dict) and exact
    polygons, exact = coco_segmentation(mask, 1, 2, SHAPE, "polygons")
    assert not exact and len(polygons) == 1
    np.testing.assert_array_equal(decoded(polygons), full(np.ones((8, 9), dtype=bool), 1, 2))


@pytest.mark.parametrize(("x0", "y0"), [(0, 0), (44, 0), (0, 35), (44, 35)])
def test_a_rectangle_at_the_border_is_one_polygon_inside_the_image(x0, y0):
    polygons, exact = coco_segmentation(np.ones((5, 6), dtype=bool), x0, y0, SHAPE)
    assert exact and len(polygons) == 1
    x, y = np.reshape(polygons[0], (-1, 2)).T
    assert (x.min(), x.max(), y.min(), y.max()) == (x0, x0 + 6, y0, y0 + 5)
    assert len(polygons[0]) <= 16  # straight runs are not cut into pieces
