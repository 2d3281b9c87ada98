"""Data sets by URI, and those that scripts have registered."""

from __future__ import annotations

import json
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
from ramses_d2.errors import RamsesError

Folder = Callable[..., Path]


@pytest.fixture(autouse=True)
def _clean_catalogs() -> Iterator[None]:
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def write_split(folder: Path, classes: list[str]) -> None:
    split = {
        "format": "ramses-split",
        "version": 1,
        "folders": {"demo": "."},
        "classes": classes,
        "subsets": {"train": ["demo/img0"], "valid": ["demo/img1"]},
    }
    (folder / "split.json").write_text(json.dumps(split))


def write_coco(folder: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "img0.png", "height": 64, "width": 96}],
        "annotations": [],
        "categories": [{"id": 1, "name": "stone"}],
    }
    (folder / "coco.json").write_text(json.dumps(content))


def test_every_form(tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_folder()
    write_split(folder, ["glass", "brick", "concrete"])
    write_coco(folder)
    monkeypatch.chdir(folder.parent)
    for uri, names, classes in (
        ("ramses://demo", ["demo/img0", "demo/img1"], ["brick", "concrete", "glass"]),
        ("ramses://demo/split.json#valid", ["demo/img1"], ["glass", "brick", "concrete"]),
        (f"ramses://{folder}", ["demo/img0", "demo/img1"], ["brick", "concrete", "glass"]),
        ("coco://demo/coco.json?images=demo/images", ["images/img0"], ["stone"]),
    ):
        assert register(uri) == uri
        assert [dataset_dict["image_name"] for dataset_dict in DatasetCatalog.get(uri)] == names
        assert MetadataCatalog.get(uri).thing_classes == classes
        assert MetadataCatalog.get(uri).evaluator_type == "ramses"
    (folder / "img0.png").write_bytes((folder / "images/img0.png").read_bytes())
    assert len(DatasetCatalog.get(register("coco://demo/coco.json"))) == 1


def test_a_hash_in_a_name_separates_no_subset(tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_folder(name="a#1/demo#2")
    write_split(folder, ["glass", "brick", "concrete"])
    split = json.loads((folder / "split.json").read_text())
    split["subsets"]["fold#2"] = split["subsets"]["valid"]
    (folder / "split.json").write_text(json.dumps(split))
    monkeypatch.chdir(folder.parent.parent)
    for uri, count in (
        ("ramses://a#1/demo#2", 2),
        ("ramses://a#1/demo#2/split.json#train", 1),
        ("ramses://a#1/demo#2/split.json#fold#2", 1),
    ):
        assert len(DatasetCatalog.get(register(uri))) == count
    with pytest.raises(RamsesError, match="demo#2 is a folder and has no subsets"):
        register("ramses://a#1/demo#2#train")


def test_the_uri_of_a_coco_file_leads_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "R&D 100% #1?images=%41"
    odd.mkdir()
    write_categories(odd, "a.json", {1: "a"})
    (odd / "label.txt").write_text("b\na\n")
    uri = register(coco_uri(odd / "a.json", odd, odd / "label.txt"))
    assert MetadataCatalog.get(uri).thing_classes == ["b", "a"]
    assert coco_uri("a b.json", "images") == "coco://a b.json?images=images"


def test_registering_twice_changes_nothing(tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_folder().parent)
    metadata = MetadataCatalog.get(register("ramses://demo"))
    register("ramses://demo")
    assert MetadataCatalog.get("ramses://demo") is metadata


def test_another_class_order_is_registered_anew(tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dataset dicts follow the new order, and so must the names."""
    folder = tiny_folder()
    monkeypatch.chdir(folder.parent)
    write_split(folder, ["brick", "concrete", "glass"])
    uri = register("ramses://demo/split.json#train")
    order = ["glass", "brick", "concrete"]
    write_split(folder, order)
    with pytest.raises(RamsesError, match="its class list was changed after it was registered, .*register it again"):
        DatasetCatalog.get(uri)
    assert MetadataCatalog.get(register(uri)).thing_classes == order
    first = DatasetCatalog.get(uri)[0]["annotations"][0]
    assert order[first["category_id"]] == "brick"


def test_other_category_ids_are_registered_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for ids in ({1: "a", 2: "b"}, {3: "a", 7: "b"}):
        write_categories(tmp_path, "train.json", ids)
        assert MetadataCatalog.get(register("coco://train.json")).dataset_category_ids == list(ids)


def test_registration_survives_a_change_of_directory(
    tiny_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_folder().parent)
    register("ramses://demo")
    other = tiny_folder(name="elsewhere/demo", classes=("x",)).parent
    monkeypatch.chdir(other)
    assert len(DatasetCatalog.get("ramses://demo")[0]["annotations"]) == 6
    register("ramses://demo")  # now it names another folder
    assert MetadataCatalog.get("ramses://demo").thing_classes == ["x"]


def test_working_directory_before_the_data_set_folder(
    tiny_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_folder(name="shelf/demo", classes=("far",))
    tiny_folder(name="near/demo", classes=("near",))
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "shelf"))
    monkeypatch.chdir(tmp_path / "near")
    assert MetadataCatalog.get(register("ramses://demo")).thing_classes == ["near"]
    monkeypatch.chdir(tmp_path / "none")
    assert MetadataCatalog.get(register("ramses://demo")).thing_classes == ["far"]


def test_errors(tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_folder()
    write_split(folder, ["brick", "concrete", "glass"])
    write_coco(folder)
    monkeypatch.chdir(folder.parent)
    for uri, message in (
        ("http://demo", "is not one of ramses://FOLDER"),
        ("demo", "is not one of"),
        ("ramses://", "is not one of"),
        ("ramses://gone", "gone is not found in"),
        ("ramses://demo#train", "has no subsets"),
        ("ramses://demo/split.json", "append one of #train, #valid"),
        ("ramses://demo/split.json#test", "no subset 'test'; append one of #train, #valid"),
        ("coco://demo/coco.json?pictures=demo", "unknown option 'pictures'"),
        ("coco://demo", "demo: cannot be read as a JSON file .*; name a file"),
        ("coco://demo/coco.json?images=gone", "gone is not found in"),
    ):
        with pytest.raises(RamsesError, match=message):
            register(uri)
        assert uri not in DatasetCatalog.list()


def test_register_datasets(tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_folder()
    write_split(folder, ["glass", "brick", "concrete"])
    monkeypatch.chdir(folder.parent)
    names = ["ramses://demo/split.json#train", "coco_2017_train", "ramses://demo/split.json#valid"]
    register_datasets(names)
    assert {"ramses://demo/split.json#train", "ramses://demo/split.json#valid"} <= set(DatasetCatalog.list())
    with pytest.raises(RamsesError, match="different class lists"):
        register_datasets([*names, "ramses://demo"])
    with pytest.raises(RamsesError, match="is not one of"):
        register_datasets(["nobody registered this"])


def write_categories(folder: Path, name: str, categories: dict[int, str]) -> None:
    content = {"images": [], "annotations": [], "categories": [{"id": k, "name": v} for k, v in categories.items()]}
    (folder / name).write_text(json.dumps(content))


def test_train_valid_and_test_with_other_categories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A common label file makes them agree; without one the error says so."""
    monkeypatch.chdir(tmp_path)
    write_categories(tmp_path, "train.json", {1: "a", 2: "b", 3: "c"})
    write_categories(tmp_path, "valid.json", {4: "c", 9: "a"})
    (tmp_path / "label.txt").write_text("c\nb\na\n")
    with pytest.raises(RamsesError, match=r"different class lists; write one class name a line .*labels=FILE"):
        register_datasets(["coco://train.json", "coco://valid.json"])
    uris = ["coco://train.json?labels=label.txt&images=.", "coco://valid.json?images=.&labels=label.txt"]
    register_datasets(uris)
    assert [MetadataCatalog.get(uri).thing_classes for uri in uris] == [["c", "b", "a"]] * 2
    assert [MetadataCatalog.get(uri).dataset_category_ids for uri in uris] == [[3, 2, 1], [4, 1, 9]]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?images=.&labels=gone.txt", "gone.txt is not found in"),
        ("?images=.&label=label.txt", "unknown option 'label'; write .*images=DIR&labels=label.txt"),
        ("?images=", "give images= one value"),
        ("?images=.&images=.", "give images= one value"),
    ],
)
def test_wrong_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_categories(tmp_path, "train.json", {1: "a"})
    with pytest.raises(RamsesError, match=message):
        register(f"coco://train.json{query}")


@pytest.fixture(autouse=True)
def _clean_catalogs_of_registered_dataset_dicts() -> Iterator[None]:
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def write_json(folder: Path) -> Path:
    (folder / "pictures").mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(folder / f"pictures/{name}.png")
    boxes = [(2, 2, 4, 90, 0), (0, 0, 10, 17, 0), (20, 5, 6, 17, 0), (0, 20, 8, 17, 1)]
    annotations = [
        {"id": 10 + n, "image_id": 70, "category_id": category, "iscrowd": crowd}
        | {"bbox": [x, y, side, side], "area": side * side, "segmentation": square(x, y, side)}
        for n, (x, y, side, category, crowd) in enumerate(boxes)
    ]
    images = [{"id": key, "file_name": f"{n}.png", "height": 30, "width": 40} for key, n in ((70, "a"), (71, "b"))]
    categories = [{"id": 90, "name": "box"}, {"id": 17, "name": "disc"}]
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_register_coco_instances(tmp_path: Path) -> None:
    register_coco_instances("my_data", {}, str(write_json(tmp_path)), str(tmp_path / "pictures"))
    register_datasets(["my_data"])
    metadata = MetadataCatalog.get("my_data")
    assert metadata.thing_classes == ["disc", "box"] and metadata.dataset_category_ids == [17, 90]
    assert metadata.evaluator_type == "coco"  # the script's own evaluation goes on to work
    dataset_dict, empty = DatasetCatalog.get("my_data")
    assert (dataset_dict["image_id"], dataset_dict["coco_image_id"], dataset_dict["image_name"]) == (
        70,
        70,
        "pictures/a",
    )
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


def test_registering_again_changes_nothing(tmp_path: Path) -> None:
    register_coco_instances("my_data", {}, str(write_json(tmp_path)), str(tmp_path / "pictures"))
    register_datasets(["my_data"])
    entry = DatasetCatalog["my_data"]
    register_datasets(["my_data", "my_data"])
    assert DatasetCatalog["my_data"] is entry


def dataset_dict_of(folder: Path, **changes: Any) -> dict[str, Any]:
    path = folder / "x.png"
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(path)
    return {"file_name": str(path), "image_id": "x", "height": 30, "width": 40, "annotations": []} | changes


def test_what_is_there_stays(tmp_path: Path) -> None:
    """Masses and resolution of a function of one's own, run lengths, a missing box."""
    outline = {"size": [30, 40], "counts": [60, 30, 1110]}
    annotation = {"category_id": 2, "segmentation": outline, "mass": 1.5, "gt_mass": True}
    dataset_dict = dataset_dict_of(tmp_path, resolution=2.0, annotations=[annotation])
    (completed,) = complete_dataset_dicts([dataset_dict], "x")
    (found,) = completed["annotations"]
    assert completed["resolution"] == 2 and (found["mass"], found["gt_mass"], found["area"]) == (1.5, True, 30)
    assert found["bbox"] == [2, 0, 3, 30]
    assert dataset_dict["annotations"] == [annotation]  # the script's dataset dicts are not touched


def test_dataset_dicts_of_ours_are_unchanged(tmp_path: Path) -> None:
    ours = {"label": 4, "category_id": 0, "bbox": [0, 0, 1, 1], "area": 1.0, "mass": 2.0, "gt_mass": True, "iscrowd": 0}
    dataset_dict = dataset_dict_of(
        tmp_path, image_name="k/x", resolution=3.0, label_file_name="l.png", annotations=[ours]
    )
    (completed,) = complete_dataset_dicts([dataset_dict], "x")
    assert {key: completed[key] for key in dataset_dict} == dataset_dict


def test_errors_of_registered_dataset_dicts(tmp_path: Path) -> None:
    for changes, message in (
        ({"height": None, "width": None}, "x.png: its dataset dict has no height and no width"),
        ({"file_name": str(tmp_path / "gone.png")}, "gone.png: the image is missing"),
        (
            {"annotations": [{"category_id": 0, "bbox": 5, "segmentation": [[0, 0, 9, 0, 9, 9]]}]},
            "my_data: .*x.png: its bbox is 5",
        ),
        ({"annotations": [{"category_id": 0, "bbox": [0, 0, 2, 2]}]}, "my_data: no annotation has a segmentation"),
    ):
        with pytest.raises(RamsesError, match=message):
            complete_dataset_dicts([dataset_dict_of(tmp_path, **changes)], "my_data")
    register_coco_instances("gone_data", {}, str(tmp_path / "gone.json"), str(tmp_path))
    with pytest.raises(RamsesError, match="data set 'gone_data' cannot be read: .*gone.json"):
        register_datasets(["gone_data"])
    DatasetCatalog.register("nameless", lambda: [dataset_dict_of(tmp_path)])
    with pytest.raises(RamsesError, match="'nameless' has no class names; set MetadataCatalog.get"):
        register_datasets(["nameless"])
