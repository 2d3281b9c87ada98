"""What is written, what is replaced, and what is left behind when it fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from ramses_d2.data.catalog import register
from ramses_d2.data.convert import coco
from ramses_d2.data.convert.coco import read_coco, write_coco
from ramses_d2.data.convert.common import IMAGE_MODES, Source, SourceImage
from ramses_d2.data.convert.ramses import read_ramses, write_ramses
from ramses_d2.data.folder import load_folder
from ramses_d2.errors import RamsesError
from tests.data.convert.images import save_image


def source(tmp_path, resolution=2.0, suffix=".png", **columns) -> Source:
    path = save_image(tmp_path / f"in/a{suffix}", 20, 30)
    label_map = np.zeros((20, 30), dtype=int)
    label_map[2:5, 3:10] = 4
    objects = pd.DataFrame({"label": [4], "class": ["Ra"], **columns})
    return Source("somewhere", ["Rb", "Ra"], [SourceImage("a", path, label_map, objects, resolution)], 1)


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder(tmp_path):
    data = source(tmp_path, radius=[1.5], F=[2.0])
    data.batches = [{"image_names": ["a.png"], "mass": {"Ra": float("nan")}}]
    report = write_ramses(data, tmp_path / "deep/out")
    assert '"Ra": null' in (tmp_path / "deep/out/metadata.json").read_text()
    assert everything(tmp_path / "deep/out") == [
        *("annotations.csv", "classes.json", "conversion.json", "images", "images/a.png"),
        *("labels", "labels/a.png", "metadata.json"),
    ]
    # The original's column order; what it does not know comes last
    assert (tmp_path / "deep/out/annotations.csv").read_text().splitlines() == [
        "label,baseimg,area,x0,y0,x1,y1,radius,class,res,mass,gt_mass,height,width,F",
        "4,a,21,2,3,5,10,1.5,Ra,2.0,NaN,False,20,30,2.0",
    ]
    assert report.lines() == [
        f"wrote 1 images, 1 objects (Rb 0, Ra 1) to {tmp_path / 'deep/out'}",
        f"  use ramses://{tmp_path / 'deep/out'}",
    ]
    written = json.loads((tmp_path / "deep/out/conversion.json").read_text())
    assert written["objects"] == {"Rb": 0, "Ra": 1} and written["source"] == "somewhere"
    assert load_folder(tmp_path / "deep/out")[1] == ["Rb", "Ra"]


def test_what_happens_to_the_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for mode in IMAGE_MODES:
        write_ramses(source(Path()), tmp_path / mode, images=mode)
    original = tmp_path / "in/a.png"
    assert (tmp_path / "copy/images/a.png").read_bytes() == original.read_bytes()
    assert not (tmp_path / "copy/images/a.png").is_symlink()
    assert os.readlink(tmp_path / "link/images/a.png") == str(original.resolve())
    assert not list((tmp_path / "none/images").iterdir())
    with pytest.raises(RamsesError, match="images 'move': choose from copy, link, none"):
        write_ramses(source(tmp_path), tmp_path / "move", images="move")
    with pytest.raises(RamsesError, match=r"a\.gif: not an image that RAMSES reads"):
        write_ramses(source(tmp_path, suffix=".gif"), tmp_path / "gif")


def test_nothing_is_left_of_a_failure(tmp_path, monkeypatch):
    with pytest.raises(RamsesError, match="its resolution is not known"):
        write_ramses(source(tmp_path, resolution=np.nan), tmp_path / "out")
    broken = source(tmp_path)
    broken.images = [*broken.images, SourceImage("b", tmp_path / "missing.png", np.zeros((2, 2)), pd.DataFrame())]
    for write, name in ((write_ramses, "out"), (write_coco, "out"), (write_coco, "out.json")):
        with pytest.raises(RamsesError, match="no such file"):
            write(broken, tmp_path / name)
    assert everything(tmp_path) == ["in", "in/a.png"]

    def full_disk(path: Path, content: object, indent: object) -> None:
        path.write_text("{")
        raise OSError("no space left on device")

    monkeypatch.setattr(coco, "write_json", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_coco(source(tmp_path), tmp_path / "out.json")
    assert everything(tmp_path) == ["in", "in/a.png"]


def test_force_replaces_its_own_work_only(tmp_path):
    out = tmp_path / "out"
    write_ramses(source(tmp_path), out)
    with pytest.raises(RamsesError, match="already exists: .* --force"):
        write_ramses(source(tmp_path), out)
    write_ramses(source(tmp_path, mass=[3.0]), out, force=True)
    assert pd.read_csv(out / "annotations.csv")["mass"].tolist() == [3.0]
    assert everything(tmp_path) == ["in", "in/a.png", *everything_below(out, tmp_path)]

    (out / "split.json").write_text("{}")
    with pytest.raises(RamsesError, match=r"split\.json was added after the conversion"):
        write_ramses(source(tmp_path), out, force=True)
    (out / "split.json").unlink()
    text = (out / "annotations.csv").read_text()
    (out / "annotations.csv").write_text(text.replace("3.0", "3.1"))
    with pytest.raises(RamsesError, match=r"annotations\.csv was changed after the conversion"):
        write_ramses(source(tmp_path), out, force=True)
    (out / "annotations.csv").write_text(text)
    (out / "labels/b.png").write_bytes(b"")
    with pytest.raises(RamsesError, match=r"labels/b\.png was added after the conversion"):
        write_ramses(source(tmp_path), out, force=True)
    (out / "labels/b.png").unlink()
    (out / "conversion.json").unlink()
    with pytest.raises(RamsesError, match=r"is no converted data set .no conversion\.json"):
        write_ramses(source(tmp_path), out, force=True)
    with pytest.raises(RamsesError, match="is a file"):
        write_ramses(source(tmp_path), tmp_path / "in/a.png", force=True)


def everything_below(folder, root):
    return sorted(str(path.relative_to(root)) for path in [folder, *folder.rglob("*")])


def test_force_never_replaces_what_is_being_read(tmp_path):
    write_coco(source(tmp_path), tmp_path / "coco")
    with pytest.raises(RamsesError, match="holds what is to be converted"):
        write_ramses(read_coco(tmp_path / "coco/annotations.json"), tmp_path / "coco", force=True)
    write_coco(source(tmp_path), tmp_path / "json", images="none")
    with pytest.raises(RamsesError, match="holds what is to be converted"):
        write_ramses(read_coco(tmp_path / "json/annotations.json", tmp_path / "in"), tmp_path / "json", force=True)
    write_ramses(source(tmp_path), tmp_path / "out")
    for address in (tmp_path / "out", f"ramses://{tmp_path / 'out'}"):
        with pytest.raises(RamsesError, match="holds what is to be converted"):
            write_coco(read_ramses(address), tmp_path / "out", force=True)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_force_never_replaces_what_links_lead_to(tmp_path, kind):
    out = tmp_path / "out"
    write_coco(source(tmp_path), out)
    (tmp_path / "other").mkdir()
    if kind == "folder":
        (tmp_path / "other/images").symlink_to(out / "images")
    else:
        (tmp_path / "other/images").mkdir()
        (tmp_path / "other/images/a.png").symlink_to(out / "images/a.png")
    (tmp_path / "other/annotations.json").write_bytes((out / "annotations.json").read_bytes())
    with pytest.raises(RamsesError, match="holds what is to be converted"):
        write_ramses(read_coco(tmp_path / "other/annotations.json"), out, force=True)
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
    with pytest.raises(RamsesError, match="is the working directory: change to another one"):
        write_ramses(read_ramses(f"{scheme}../first"), ".", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "here", "in"]


@pytest.mark.parametrize("name", ["out%41", "out#1", "out&images=1", "out?y", "out put=\u00fc"])
def test_the_address_leads_to_what_was_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for write, output in ((write_ramses, "ramses"), (write_coco, "coco"), (write_coco, "a.json")):
        address = write(source(Path(name)), f"{name}/{output}").uri
        (dataset_dict,) = DatasetCatalog.get(register(address))
        assert Path(dataset_dict["file_name"]).is_relative_to(tmp_path / name)
        DatasetCatalog.remove(address)
        MetadataCatalog.remove(address)


def test_force_and_a_json(tmp_path):
    path = tmp_path / "a.json"
    write_coco(source(tmp_path), path)
    with pytest.raises(RamsesError, match=r"a\.json already exists"):
        write_coco(source(tmp_path), path)
    write_coco(source(tmp_path, mass=[2.5]), path, force=True, segmentation="rle")
    assert json.loads(path.read_text())["annotations"][0]["mass"] == 2.5
    for content in ('{"info": {"contributor": "COCO Consortium"}}', '{"images": []}', "[]", "no json"):
        path.write_text(content)
        with pytest.raises(RamsesError, match="was not written by a conversion"):
            write_coco(source(tmp_path), path, force=True)
        assert path.read_text() == content
    with pytest.raises(RamsesError, match="segmentation 'mask': choose from auto, polygons, rle"):
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
    data.images.append(other)
    with pytest.raises(RamsesError, match=r"b\.png: an image without objects, of unknown resolution"):
        write_ramses(data, tmp_path / "two")
    data.images = [empty]
    with pytest.raises(RamsesError, match="without objects"):
        write_ramses(data, tmp_path / "three")
    data.resolution = 5.0
    write_ramses(data, tmp_path / "three")
    assert load_folder(tmp_path / "three")[0][0]["resolution"] == 5.0
