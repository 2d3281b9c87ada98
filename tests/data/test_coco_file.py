"""What a COCO json lists: ids of any kind, classes in the order of the ids or of a label file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ramses_d2.data.coco import CocoFile, read_coco_file, read_label_file
from ramses_d2.errors import RamsesError

BOX = {"segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]], "iscrowd": 0}


def read(
    folder: Path,
    image_ids: list[Any],
    categories: dict[Any, str],
    used: list[tuple[Any, Any]],
    labels: str | None = None,
) -> CocoFile:
    """Read a json with these ids; ``used``: image id and category id of each annotation."""
    images = [{"id": key, "file_name": f"{key}.png", "height": 9, "width": 9} for key in image_ids]
    annotations = [{"id": f"a{n}", "image_id": i, "category_id": c} | BOX for n, (i, c) in enumerate(used)]
    entries = [{"id": key, "name": name} for key, name in categories.items()]
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": entries}))
    if labels is None:
        return read_coco_file(path)
    (folder / "label.txt").write_text(labels)
    return read_coco_file(path, folder / "label.txt")


def test_numbers_with_gaps_and_zero(tmp_path: Path) -> None:
    coco = read(tmp_path, [900, 0, 17], {90: "box", 0: "disc", 17: "cone"}, [(0, 90), (900, 0)])
    assert list(coco.images) == [0, 17, 900] and set(coco.annotations) == {0, 900}
    assert (coco.class_names, coco.category_ids) == (["disc", "cone", "box"], [0, 17, 90])


def test_strings(tmp_path: Path) -> None:
    """Numbers written as strings are ordered by value, names after them."""
    coco = read(tmp_path, ["img_b", "10", "9", "img_a"], {"k2": "box", "11": "disc", "2": "cone"}, [("9", "k2")])
    assert list(coco.images) == ["9", "10", "img_a", "img_b"]
    assert (coco.class_names, coco.category_ids) == (["cone", "disc", "box"], ["2", "11", "k2"])


def test_a_label_file_fixes_the_order(tmp_path: Path) -> None:
    """Its further classes are fine, and get an id that the file does not use."""
    labels = "\ufeff# classes\n\n  glass \nbox\nnew one\ndisc\n"
    coco = read(tmp_path, [1], {1: "disc", 2: "box", 7: "unused"}, [(1, 2), (1, 1)], labels)
    assert coco.class_names == ["glass", "box", "new one", "disc"]
    assert coco.category_ids == [3, 2, 4, 1]


def test_files_with_other_categories_agree_by_a_label_file(tmp_path: Path) -> None:
    sets = ({1: "a", 2: "b", 3: "c"}, {1: "c", 2: "a"}, {5: "b"})
    found = [read(tmp_path, [1], categories, [], "c\nb\na") for categories in sets]
    assert {tuple(coco.class_names) for coco in found} == {("c", "b", "a")}
    assert [coco.category_ids for coco in found] == [[3, 2, 1], [1, 3, 2], [1, 5, 2]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("disc\n", "label.txt: class box, cone of .*coco.json is not in it"),
        ("# nothing\n\n", "label.txt: no class name"),
        ("disc\nbox\ndisc\n", "label.txt: class 'disc' is there twice"),
    ],
)
def test_wrong_label_files(tmp_path: Path, labels: str, message: str) -> None:
    used = [(1, 1), (1, 2), (1, 3)]
    with pytest.raises(RamsesError, match=message):
        read(tmp_path, [1], {1: "disc", 2: "box", 3: "cone"}, used, labels)


def test_a_label_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RamsesError, match="gone.txt: not a label file"):
        read_label_file(tmp_path / "gone.txt")
    (tmp_path / "picture.txt").write_bytes(b"\xff\xd8\xff\xe0 no text")
    with pytest.raises(RamsesError, match=r"picture.txt: not a label file .*one class name a line"):
        read_label_file(tmp_path / "picture.txt")


def test_one_name_twice(tmp_path: Path) -> None:
    """Fine where one of the two is not used, as in Roboflow's files."""
    categories = {0: "stone", 1: "stone", 2: "box"}
    coco = read(tmp_path, [1], categories, [(1, 1), (1, 2)])
    assert (coco.class_names, coco.category_ids) == (["stone", "box"], [1, 2])
    with pytest.raises(RamsesError, match="categories 0 and 1 are both named 'stone'"):
        read(tmp_path, [1], categories, [(1, 1), (1, 0)])


@pytest.mark.parametrize(
    ("key", "entries", "message"),
    [
        ("images", [{"id": 1}, {"id": 1}], "image id 1 is there twice"),
        ("annotations", [{"id": 4, "image_id": 1, "category_id": 1}] * 2, "annotation id 4 is there twice"),
        ("categories", [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "category id 1 is there twice"),
        ("annotations", [{"image_id": 1, "category_id": 1}], "annotation number 1 has no id"),
        ("images", [{"id": 1}, {"id": [2]}], "image number 2 has no id"),
        ("images", ["1.png"], "image number 1 has no id"),
        ("categories", [{"id": 1}], "category 1 has no name"),
        ("annotations", [{"id": 4, "image_id": [1], "category_id": 1}], r"annotation 4 has image_id \[1\]"),
        ("annotations", [{"id": 4, "image_id": 1, "category_id": "1"}], "annotation 4 has category_id '1'"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, key: str, entries: list[Any], message: str) -> None:
    content = {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]} | {key: entries}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with pytest.raises(RamsesError, match=f"coco.json: {message}") as error:
        read_coco_file(tmp_path / "coco.json")
    assert "\n" not in str(error.value)
