"""Split files, ours and the original's: order, repeats, equal base names, errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ramses_d2.data.dataset_manager import DatasetManager
from ramses_d2.data.splits import load_split, split_class_names, subset_names
from ramses_d2.errors import RamsesError

Folder = Callable[..., Path]
CLASSES = ["glass", "brick", "concrete"]
ORIGINAL_SPLITS = Path(__file__).parents[2] / "../shared/data/ramses2-splits"


def write_split(folder: Path, **changes: Any) -> Path:
    split = {
        "format": "ramses-split",
        "version": 1,
        "folders": {"a": "first", "b": "second"},
        "classes": CLASSES,
        "subsets": {"train": ["b/img1", "a/img0", "b/img1", "b/img0"], "valid": ["a/img1"], "empty": []},
    } | changes
    path = folder / "split.json"
    path.write_text(json.dumps({key: value for key, value in split.items() if value is not None}))
    return path


@pytest.fixture
def two_folders(tiny_folder: Folder) -> Path:
    """Two folders with equal base names and different contents; returns their parent."""
    tiny_folder(name="first", count=4)
    return tiny_folder(name="second", count=6).parent


def test_ours(two_folders: Path) -> None:
    path = write_split(two_folders)
    dataset_dicts, class_names = load_split(path, "train")
    assert class_names == split_class_names(path) == CLASSES
    assert [r["image_name"] for r in dataset_dicts] == ["b/img1", "a/img0", "b/img1", "b/img0"]
    assert [r["image_id"] for r in dataset_dicts] == [1, 2, 1, 3]
    assert [len(r["annotations"]) for r in dataset_dicts] == [6, 4, 6, 6]
    assert "second" in dataset_dicts[0]["file_name"] and "first" in dataset_dicts[1]["label_file_name"]
    assert dataset_dicts[1]["annotations"][0]["category_id"] == 1
    assert subset_names(path) == ["train", "valid", "empty"]
    assert load_split(path, "empty")[0] == []


def test_folder_of_the_split_itself(tiny_folder: Folder) -> None:
    folder = tiny_folder()
    path = write_split(folder, folders={"demo": "."}, subsets={"train": ["demo/img1"]})
    assert [r["image_name"] for r in load_split(path, "train")[0]] == ["demo/img1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not a split file"),
        ({"version": 2}, "not a split file"),
        ({"classes": None}, "key 'classes' is missing"),
        ({"folders": None}, "key 'folders' is missing"),
        ({"subsets": ["train"]}, "key 'subsets' is missing or of a wrong type"),
        ({"subsets": {"val": []}}, "no subset 'train'; it has val"),
        ({"subsets": {"train": ["a/img0", "a/img7"]}}, "1 images of subset 'train' .* 'a/img7'"),
        ({"subsets": {"train": ["c/img0"]}}, "'c/img0' is in no listed folder"),
        ({"subsets": {"train": ["img0"]}}, "'img0' is in no listed folder"),
        ({"folders": {"a": "nowhere", "b": "second"}}, "nowhere: no such folder"),
        ({"subsets": {"train": [1]}}, "split.json: train is no list of image names"),
        ({"subsets": {"train": "a/img0"}}, "split.json: train is no list of image names"),
        ({"folders": {"a": 1, "b": "second"}}, "split.json: folders must be paths, and classes names"),
        ({"classes": [1]}, "split.json: folders must be paths, and classes names"),
        ({"classes": ["glass"]}, "row 2: class 'brick' is not in the class list"),
    ],
)
def test_errors(two_folders: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RamsesError, match=message):
        load_split(write_split(two_folders, **changes), "train")


def test_not_a_json_file(tmp_path: Path) -> None:
    with pytest.raises(RamsesError, match="no such file"):
        load_split(tmp_path / "split.json", "train")
    for content, message in (("{", "not a JSON file"), ("[]", "not a split file")):
        (tmp_path / "split.json").write_text(content)
        with pytest.raises(RamsesError, match=message):
            load_split(tmp_path / "split.json", "train")


def write_original(parent: Path, folders: dict[str, str], train: list[str], valid: list[str]) -> Path:
    """The original's JSON + CSV of ``folders`` (name below parent -> path written in the CSV)."""
    path = parent / "SPLIT.json"
    ids = {name: index for index, name in enumerate(CLASSES, start=1)}
    path.write_text(json.dumps({"cls_to_idx": ids, "train": train, "valid": valid, "seed": 4}))
    tables = [
        pd.read_csv(parent / name / "annotations.csv").assign(folder=text, id="x", VALID=True)
        for name, text in folders.items()
    ]
    pd.concat(tables).to_csv(path.with_suffix(".csv"), index=False)
    return path


@pytest.mark.parametrize("prefix", ["", "D:\\data\\", "/home/someone/"])
def test_original(two_folders: Path, prefix: str) -> None:
    path = write_original(two_folders, {"second": f"{prefix}second"}, ["img1", "img1"], ["img0"])
    dataset_dicts, class_names = load_split(path, "train")
    assert class_names == CLASSES and subset_names(path) == ["train", "valid"]
    assert [(r["image_name"], r["image_id"], len(r["annotations"])) for r in dataset_dicts] == [
        ("second/img1", 1, 6),
        ("second/img1", 1, 6),
    ]
    assert [r["image_name"] for r in load_split(path, "valid")[0]] == ["second/img0"]


@pytest.mark.parametrize(("in_csv", "in_json"), [("{}.jpg", "{}"), ("{}.png", "{}.png"), ("images/{}.png", "{}.jpg")])
def test_original_names_with_extension(two_folders: Path, in_csv: str, in_json: str) -> None:
    path = write_original(two_folders, {"second": "second"}, [in_json.format("img1")], [])
    table = pd.read_csv(path.with_suffix(".csv"))
    table.assign(baseimg=table["baseimg"].map(in_csv.format)).to_csv(path.with_suffix(".csv"), index=False)
    (dataset_dict,), _ = load_split(path, "train")
    assert dataset_dict["image_name"] == "second/img1" and len(dataset_dict["annotations"]) == 6
    path.write_text(json.dumps(json.loads(path.read_text()) | {"valid": [None]}))
    with pytest.raises(RamsesError, match="valid is no list of image names"):
        load_split(path, "train")


def test_original_keeps_equal_base_names_apart(two_folders: Path) -> None:
    path = write_original(two_folders, {"first": "first", "second": "second"}, ["img0"], [])
    dataset_dicts, _ = load_split(path, "train")
    assert [(r["image_name"], r["image_id"], len(r["annotations"])) for r in dataset_dicts] == [
        ("first/img0", 1, 4),
        ("second/img0", 2, 6),
    ]


def test_original_takes_a_image_only_from_the_folder_its_rows_name(two_folders: Path) -> None:
    path = write_original(two_folders, {"first": "first", "second": "second"}, ["img0", "img1"], [])
    table = pd.read_csv(path.with_suffix(".csv"))
    table.query("folder == 'second' or baseimg == 'img1'").to_csv(path.with_suffix(".csv"), index=False)
    names = [dataset_dict["image_name"] for dataset_dict in load_split(path, "train")[0]]
    assert names == ["second/img0", "first/img1", "second/img1"]


def test_original_errors(two_folders: Path) -> None:
    path = write_original(two_folders, {"first": "first"}, ["img0", "img9"], [])
    with pytest.raises(RamsesError, match="'img9'"):
        load_split(path, "train")
    path = write_original(two_folders, {"first": "C:\\gone"}, ["img0"], [])
    with pytest.raises(RamsesError, match="SPLIT.csv: folder 'C:.*gone' is found neither"):
        load_split(path, "train")
    table = pd.read_csv(path.with_suffix(".csv"))
    table.drop(columns="folder").to_csv(path.with_suffix(".csv"), index=False)
    with pytest.raises(RamsesError, match="SPLIT.csv: column folder is missing"):
        load_split(path, "train")
    path.with_suffix(".csv").unlink()
    with pytest.raises(RamsesError, match="SPLIT.csv: no such file; a RAMSES2 split is a JSON and the CSV"):
        load_split(path, "train")


@pytest.mark.skipif(not ORIGINAL_SPLITS.is_dir(), reason="the published RAMSES2 splits are not at hand")
def test_published_splits() -> None:
    path = ORIGINAL_SPLITS / "15CLS_20250723-173206.json"
    names = split_class_names(path)
    assert (names[0], names[6], names[14], len(names)) == ("Ra", "Ru02", "Rg", 15)
    assert subset_names(path) == ["train", "valid"]
    with pytest.raises(RamsesError, match="15CLS_20250723-173206.csv: no such file"):
        load_split(path, "train")


@pytest.mark.parametrize("form", ["{}.tif", "images/{}.png", "{}.JPG"])
def test_particles_are_found_under_other_forms_of_the_name(two_folders: Path, form: str) -> None:
    """They would be trained on as empty images otherwise."""
    path = two_folders / "first/annotations.csv"
    table = pd.read_csv(path)
    table.assign(baseimg=table["baseimg"].map(form.format)).to_csv(path, index=False)
    split = DatasetManager.from_folders([path.parent], seed=1)
    split.create_split(0.5)
    split.save(two_folders / "new.json")
    assert [len(dataset_dict["annotations"]) for dataset_dict in load_split(two_folders / "new.json", "train")[0]] == [
        4
    ]


def test_a_mistyped_name_is_an_error_not_an_empty_image(two_folders: Path) -> None:
    path = two_folders / "first/annotations.csv"
    path.write_text(path.read_text().replace("img0", "Img0"))
    with pytest.raises(
        RamsesError, match=r"first/annotations.csv, row 2: image .*Img0.* is missing, while .*img0.png has"
    ):
        load_split(write_split(two_folders), "train")
