"""Data sets by URI, and those that scripts have registered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode
from PIL import Image

from ramses_d2.data.catalog import coco_uri, complete_dataset_dicts, register, register_datasets
from ramses_d2.data.images import read_label_map
from tests.conftest import refused, square, write_coco, write_split

Folder = Callable[..., Path]
ORDER = ["glass", "brick", "concrete"]


@pytest.fixture(autouse=True)
def _clean_catalogs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def classes_of(uri: str) -> list[str]:
    return MetadataCatalog.get(uri).thing_classes


# ---- URIs


def test_every_form(tiny_folder: Folder, tmp_path: Path) -> None:
    folder = tiny_folder()
    write_split(folder / "split.json", classes=ORDER)
    write_coco(folder / "coco.json", images={1: "img0.png"}, categories={1: "stone"})
    for uri, names, classes in (
        ("ramses://demo", ["demo/img0", "demo/img1"], sorted(ORDER)),
        ("ramses://demo/split.json#valid", ["demo/img1"], ORDER),
        (f"ramses://{folder}", ["demo/img0", "demo/img1"], sorted(ORDER)),
        ("coco://demo/coco.json?images=demo/images", ["images/img0"], ["stone"]),
    ):
        assert register(uri) == uri
        assert [dataset_dict["image_name"] for dataset_dict in DatasetCatalog.get(uri)] == names
        assert classes_of(uri) == classes and MetadataCatalog.get(uri).evaluator_type == "ramses"
        metadata = MetadataCatalog.get(uri)
        assert MetadataCatalog.get(register(uri)) is metadata  # twice changes nothing
    (folder / "img0.png").write_bytes((folder / "images/img0.png").read_bytes())
    assert len(DatasetCatalog.get(register("coco://demo/coco.json"))) == 1


def test_odd_names(tiny_folder: Folder, tmp_path: Path) -> None:
    """A "#" in a name separates no subset; the URI of a COCO file leads to it."""
    folder = tiny_folder(name="a#1/demo#2")
    write_split(folder / "split.json", subsets={"train": ["demo/img0"], "fold#2": ["demo/img1"]})
    for name, count in (("", 2), ("/split.json#train", 1), ("/split.json#fold#2", 1)):
        assert len(DatasetCatalog.get(register(f"ramses://a#1/demo#2{name}"))) == count
    with refused("demo#2 is a folder"):
        register("ramses://a#1/demo#2#train")
    odd = tmp_path / "R&D 100% #1?images=%41"
    odd.mkdir()
    write_coco(odd / "a.json", categories={1: "a"})
    (odd / "label.txt").write_text("b\na\n")
    assert classes_of(register(coco_uri(odd / "a.json", odd, odd / "label.txt"))) == ["b", "a"]
    assert coco_uri("a b.json", "images") == "coco://a b.json?images=images"


def test_other_classes_are_registered_anew(tiny_folder: Folder, tmp_path: Path) -> None:
    """The dataset dicts follow the new order, and so must the names and the category ids."""
    path = tiny_folder() / "split.json"
    write_split(path, classes=sorted(ORDER))
    uri = register("ramses://demo/split.json#train")
    write_split(path, classes=ORDER)
    with refused(uri, "glass, brick, concrete", "register it again"):
        DatasetCatalog.get(uri)
    assert classes_of(register(uri)) == ORDER
    assert ORDER[DatasetCatalog.get(uri)[0]["annotations"][0]["category_id"]] == "brick"
    for ids in ({1: "a", 2: "b"}, {3: "a", 7: "b"}):
        write_coco(tmp_path / "train.json", categories=ids)
        assert MetadataCatalog.get(register("coco://train.json")).dataset_category_ids == list(ids)


def test_relative_paths(tiny_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registration survives a change of directory; the working directory comes before the data set folder."""
    tiny_folder("here/demo")
    for name in ("near", "far"):
        tiny_folder(f"{name}/demo", classes=(name,))
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "far"))
    monkeypatch.chdir(tmp_path / "here")
    register("ramses://demo")
    monkeypatch.chdir(tmp_path / "near")
    assert len(classes_of("ramses://demo")) == 3 and len(DatasetCatalog.get("ramses://demo")[0]["annotations"]) == 6
    for name, classes in (("near", ["near"]), ("none", ["far"])):
        monkeypatch.chdir(tmp_path / name)
        assert classes_of(register("ramses://demo")) == classes  # now it names another folder


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        *((uri, "ramses://FOLDER") for uri in ("http://demo", "demo", "ramses://", "not registered")),
        ("ramses://gone", "gone is not found in"),
        ("ramses://demo#train", "no subsets"),
        ("ramses://demo/split.json", "#train, #valid"),
        ("ramses://demo/split.json#test", "'test'; append one of #train, #valid"),
        ("coco://demo", "demo: cannot be read"),
        ("coco://demo/coco.json?images=gone", "gone is not found in"),
        ("coco://demo/coco.json?images=.&labels=gone.txt", "gone.txt is not found in"),
        ("coco://demo/coco.json?images=.&label=label.txt", "'label'"),
        ("coco://demo/coco.json?images=", "images="),
        ("coco://demo/coco.json?images=.&images=.", "images= one value"),
    ],
)
def test_faults_of_uris(tiny_folder: Folder, uri: str, words: str) -> None:
    folder = tiny_folder()
    write_split(folder / "split.json")
    write_coco(folder / "coco.json", categories={1: "stone"})
    with refused("" if uri == "coco://demo" else repr(uri), words):
        register_datasets([uri])
    assert uri not in DatasetCatalog.list()


def test_data_sets_of_one_config_have_one_class_list(tiny_folder: Folder, tmp_path: Path) -> None:
    """A common label file makes COCO files agree; without one the error says so."""
    write_split(tiny_folder() / "split.json")
    names = ["ramses://demo/split.json#train", "coco_2017_train", "ramses://demo/split.json#valid"]
    register_datasets(names)
    assert {names[0], names[2]} <= set(DatasetCatalog.list())
    with refused(names[0], "ramses://demo (", "classes.json"):
        register_datasets([*names, "ramses://demo"])
    write_coco(tmp_path / "train.json", categories={1: "a", 2: "b", 3: "c"})
    write_coco(tmp_path / "valid.json", categories={4: "c", 9: "a"})
    (tmp_path / "label.txt").write_text("c\nb\na\n")
    with refused("coco://train.json (a, b, c)", "coco://valid.json (c, a)", "labels=FILE"):
        register_datasets(["coco://train.json", "coco://valid.json"])
    uris = ["coco://train.json?labels=label.txt&images=.", "coco://valid.json?images=.&labels=label.txt"]
    register_datasets(uris)
    assert [classes_of(uri) for uri in uris] == [["c", "b", "a"]] * 2
    assert [MetadataCatalog.get(uri).dataset_category_ids for uri in uris] == [[3, 2, 1], [4, 1, 9]]


# ---- dataset dicts of scripts


def save_image(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(path)
    return path


def test_register_coco_instances(tmp_path: Path) -> None:
    boxes = [(2, 2, 4, 90, 0), (0, 0, 10, 17, 0), (20, 5, 6, 17, 0), (0, 20, 8, 17, 1)]
    annotations = [
        {"id": 10 + n, "image_id": 70, "category_id": category, "iscrowd": crowd}
        | {"bbox": [x, y, side, side], "area": side * side, "segmentation": square(x, y, side)}
        for n, (x, y, side, category, crowd) in enumerate(boxes)
    ]
    images = {70: save_image(tmp_path / "images/a.png").name, 71: save_image(tmp_path / "images/b.png").name}
    path = write_coco(tmp_path / "coco.json", annotations, images=images, categories={90: "box", 17: "disc"})
    register_coco_instances("my_data", {}, str(path), str(tmp_path / "images"))
    register_datasets(["my_data"])
    entry = DatasetCatalog["my_data"]
    register_datasets(["my_data", "my_data"])
    assert DatasetCatalog["my_data"] is entry  # again changes nothing
    metadata = MetadataCatalog.get("my_data")
    assert metadata.thing_classes == ["disc", "box"] and metadata.dataset_category_ids == [17, 90]
    assert metadata.evaluator_type == "coco"  # the script's own evaluation goes on to work
    dataset_dict, empty = DatasetCatalog.get("my_data")
    assert [dataset_dict[key] for key in ("image_id", "coco_image_id", "image_name")] == [70, 70, "images/a"]
    assert math.isnan(dataset_dict["resolution"]) and empty["annotations"] == [] and "crowd" not in empty
    large, middle, small = dataset_dict["annotations"]
    assert [a["label"] for a in (large, middle, small)] == [1, 2, 3] and [large["area"], small["area"]] == [100, 16]
    assert (small["category_id"], small["bbox"], small["bbox_mode"]) == (1, [2, 2, 6, 6], BoxMode.XYXY_ABS)
    assert math.isnan(small["mass"]) and small["gt_mass"] is False
    assert len({a["coco_id"] for a in dataset_dict["annotations"]}) == 3
    ((crowd),) = dataset_dict["crowd"]
    assert (crowd["bbox"], crowd["area"], crowd["category_id"]) == ([0, 20, 8, 8], 64, 0)
    # The small one lies on top, the crowd is not painted
    assert np.bincount(read_label_map(dataset_dict).ravel()).tolist() == [1200 - 136, 84, 36, 16]


def dataset_dict_of(folder: Path, **changes: Any) -> dict[str, Any]:
    path = save_image(folder / "x.png")
    return {"file_name": str(path), "image_id": "x", "height": 30, "width": 40, "annotations": []} | changes


def test_what_is_there_stays(tmp_path: Path) -> None:
    """Masses and resolution of a function of one's own, RLE, a missing box; and dataset dicts of ours."""
    given = {"category_id": 2, "segmentation": {"size": [30, 40], "counts": [60, 30, 1110]}, "mass": 1.5}
    dataset_dict = dataset_dict_of(tmp_path, resolution=2.0, annotations=[given | {"gt_mass": True}])
    (completed,) = complete_dataset_dicts([dataset_dict], "x")
    (found,) = completed["annotations"]
    assert completed["resolution"] == 2 and (found["mass"], found["gt_mass"], found["area"]) == (1.5, True, 30)
    assert found["bbox"] == [2, 0, 3, 30]
    assert dataset_dict["annotations"] == [given | {"gt_mass": True}]  # the script's dataset dicts are not touched

    ours = {"label": 4, "category_id": 0, "bbox": [0, 0, 1, 1], "area": 1.0, "mass": 2.0, "gt_mass": True, "iscrowd": 0}
    ours = {"image_name": "k/x", "resolution": 3.0, "label_file_name": "l.png", "annotations": [ours]}
    dataset_dict = dataset_dict_of(tmp_path, **ours)
    (completed,) = complete_dataset_dicts([dataset_dict], "x")
    assert {key: completed[key] for key in dataset_dict} == dataset_dict


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"height": None, "width": None}, ["x.png", "no height and no width"]),
        ({"file_name": "gone.png"}, ["gone.png: the image is missing"]),
        ({"annotations": [{"category_id": 0, "bbox": 5, "segmentation": square(0, 0, 9)}]}, ["x.png", "bbox is 5"]),
        ({"annotations": [{"category_id": 0, "bbox": [0, 0, 2, 2]}]}, ["no annotation has a segmentation"]),
    ],
)
def test_faults_of_dataset_dicts(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    with refused("my_data: ", *words):
        complete_dataset_dicts([dataset_dict_of(tmp_path, **changes)], "my_data")


def test_faults_of_registered_names(tmp_path: Path) -> None:
    register_coco_instances("gone_data", {}, str(tmp_path / "gone.json"), str(tmp_path))
    with refused("'gone_data'", "gone.json"):
        register_datasets(["gone_data"])
    DatasetCatalog.register("nameless", lambda: [dataset_dict_of(tmp_path)])
    with refused("'nameless' has no class names", "MetadataCatalog.get"):
        register_datasets(["nameless"])
