"""The same image on both sides of a split, and in several folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ramses_d2.data.checking.check import check_folders
from ramses_d2.errors import RamsesError
from tests.data.checking.data_set import A, DataSet

OURS = {"format": "ramses-split", "version": 1, "classes": ["Ra", "Rb", "Rc"]}


def write_split(path: Path, folders: dict[str, str], subsets: dict[str, list[str]]) -> Path:
    path.write_text(json.dumps(OURS | {"folders": folders, "subsets": subsets}))
    return path


def summary(folders: list[Path], split: Path | None = None) -> list[tuple]:
    return [(each.kind, Path(each.folder).name, each.file) for each in check_folders(folders, split=split).findings]


@pytest.mark.parametrize(
    ("subsets", "leaks"),
    [
        (("train", "valid"), True),
        (("train", "test"), True),
        (("val", "Test"), True),
        (("fold0-train", "fold0-valid"), True),
        (("fold0-train", "fold1-valid"), False),  # every image is trained on in all folds but one
        (("fold0-train", "test"), True),
        (("fold0-train", "fold1-train"), False),
        (("training", "validation"), True),
        (("train", "Validation"), True),
        (("train", "dev"), True),
        (("training", "testing"), True),
        (("fold0_training", "fold0_val"), True),
        (("training_a", "validation_b"), False),
        (("validation", "dev"), False),
        (("train", "device"), False),
        (("train", "favourites"), False),
    ],
)
def test_which_subsets_must_be_apart(data: DataSet, subsets: tuple[str, str], leaks: bool) -> None:
    one, other = subsets
    write_split(data.folder / "split.json", {"k": "."}, {one: [f"k/{A}"] * 2, other: ["k/scene_00003", f"k/{A}"]})
    findings = check_folders([data.folder]).findings
    assert [each.kind for each in findings] == ["in-two-subsets"] * leaks
    if leaks:
        assert findings[0].message == f"{A} is in {one} (2x) and in {other} (1x)"


def test_a_copy_is_named_where_it_is_not_trained_on(data: DataSet) -> None:
    data.copy_image(A, "z_copy")
    for valid, train in ((A, "z_copy"), ("z_copy", A)):
        write_split(data.folder / "split.json", {"k": "."}, {"valid": [f"k/{valid}"], "train": [f"k/{train}"]})
        (leak,) = check_folders([data.folder]).findings
        assert (leak.kind, leak.image) == ("copy-in-two-subsets", valid)
        assert leak.message.startswith("in valid, has the same pixels as images/")
        assert leak.message.endswith(" in train")


def test_folders_that_share_images(data: DataSet, another: Callable[[str], DataSet], tmp_path: Path) -> None:
    other = another("other")
    for base in ("scene_00001", "scene_00003", "scene_00004", "scene_00005", "scene_00006"):
        other.image(base).unlink()
        other.label(base).unlink()
    other.write(other.table.query("baseimg == @A"))
    (other.folder / "split.json").unlink()
    folders = [data.folder, other.folder]
    assert summary(folders) == [("duplicate-picture", "other", f"images/{A}.jpg")]
    assert summary(folders[:1] * 2) == []  # the same folder twice is one folder
    split = write_split(tmp_path / "both.json", {"d": "data", "o": "other"}, {"train": [f"d/{A}"], "valid": [f"o/{A}"]})
    assert summary(folders, split) == [("copy-in-two-subsets", "other", f"images/{A}.jpg")]
    # A folder that is not checked cannot be looked into
    assert summary(folders[:1], split) == []


def test_the_same_name_for_two_images_is_no_copy(data: DataSet, another: Callable[[str], DataSet]) -> None:
    other = another("other")
    for path in (other.folder / "images").iterdir():
        Image.open(path).point(lambda value: 255 - value).save(path)
    assert summary([data.folder, other.folder]) == []


def test_a_copy_with_other_metadata_and_compression_is_found(data: DataSet) -> None:
    Image.open(data.image(A)).save(data.image("z").with_suffix(".tif"), compression="tiff_lzw", dpi=(300, 300))
    shutil.copy(data.label(A), data.label("z"))
    data.write(data.table.query("baseimg != 'z'"))
    kinds = [each.kind for each in check_folders([data.folder]).findings]
    assert "duplicate-picture" in kinds


def test_a_split_of_the_original(data: DataSet, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    content = {"cls_to_idx": {"Ra": 1, "Rb": 2, "Rc": 3}, "train": [A, A, "scene_00001"], "valid": [A]}
    path.write_text(json.dumps(content))
    (finding,) = check_folders([data.folder], split=path).findings
    assert (finding.kind, finding.image, finding.file) == ("in-two-subsets", A, str(path))


def test_class_lists(data: DataSet) -> None:
    rows = set(data.table.index[data.table["class"] == "Rc"].tolist())
    report = check_folders([data.folder], class_names=["Ra", "Rb"])
    assert {each.row for each in report.findings} == rows
    assert report.findings[0].message == "class 'Rc' is not in the class list (Ra, Rb)"
    # Only the images that a split names must fit its list
    split = json.loads((data.folder / "split.json").read_text()) | {"classes": ["Ra", "Rb"]}
    split["subsets"] = {"train": [f"data/{A}"]}
    (data.folder / "split.json").write_text(json.dumps(split))
    findings = check_folders([data.folder]).findings
    assert {each.kind for each in findings} == {"unknown-class"} and {each.image for each in findings} == {A}


def test_a_image_that_a_split_wants_must_be_annotated(data: DataSet) -> None:
    data.write(data.table.query("baseimg != @A"))
    data.label(A).unlink()
    assert [each.severity for each in check_folders([data.folder]).findings] == ["error"]
    (data.folder / "split.json").unlink()
    assert [each.severity for each in check_folders([data.folder]).findings] == ["warning"]


@pytest.mark.parametrize("subsets", [{"train": "data/a"}, {"train": [1]}, {"train": ["a"]}, {"train": ["other/a"]}])
def test_splits_that_cannot_be_used(data: DataSet, tmp_path: Path, subsets: dict) -> None:
    split = write_split(tmp_path / "s.json", {"data": "data"}, subsets)
    with pytest.raises(RamsesError, match="s.json: "):
        check_folders([data.folder], split=split)
    shutil.copy(split, data.folder / "split.json")
    assert summary([data.folder]) == [("json-unreadable", "data", "split.json")]
    with pytest.raises(RamsesError, match="no such file"):
        check_folders([data.folder], split=tmp_path / "nowhere.json")
