"""Names of images, and which of them a crop to an aspect ratio would cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ramses_d2.data.augmentation import CropToAspect
from ramses_d2.data.dataset_manager import (
    common_class_names,
    find_empty_images,
    folder_keys,
    is_cut,
    locate_images,
    read_folders,
)
from ramses_d2.errors import RamsesError

Folder = Callable[..., Path]


def test_keys_are_the_last_parts_of_paths_and_differ() -> None:
    folders = ["/a/one", "D:\\b\\one", "/c/two/", "/d/one-2", "/a/one"]
    assert folder_keys(folders) == {"/a/one": "one", "D:\\b\\one": "one-2", "/c/two/": "two", "/d/one-2": "one-2-2"}


def test_images_of_one_base_name_are_kept_apart_unless_names_are_bare() -> None:
    rows = pd.DataFrame({"folder": ["x", "x", "y"], "baseimg": ["a.jpg", "a.jpg", "a"], "res": [2.0, 2.0, 3.0]})
    places, names = locate_images(rows, [("y", "b", 5.0)], {"x": "x", "y": "y"}, bare_names=False)
    assert places["picture"].tolist() == ["x/a", "y/a", "y/b"] and names.tolist() == ["x/a", "x/a", "y/a"]
    assert places["res"].tolist() == [2, 3, 5]
    places, names = locate_images(rows, [], {"x": "x", "y": "y"}, bare_names=True)
    assert places["picture"].tolist() == ["a", "a"] and set(names) == {"a"}


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ((26, 0, 124, 100), False),  # the window is columns 25 ... 125; rows are not cropped
        ((25, 10, 60, 20), True),
        ((0, 10, 20, 20), True),
        ((60, 10, 125, 20), True),
        ((130, 10, 150, 20), True),
    ],
)
def test_cropped_columns(box: tuple[int, ...], cut: bool) -> None:
    """A 100 x 150 image cropped to a square."""
    assert is_cut(np.array([(50, 50, 60, 60), box]), (100, 150), ratio=1.0) is cut


@pytest.mark.parametrize(
    ("box", "cut"), [((0, 26, 90, 125), False), ((0, 25, 9, 60), True), ((0, 60, 9, 126), True), ((0, 0, 9, 20), True)]
)
def test_cropped_rows_with_an_odd_pixel(box: tuple[int, ...], cut: bool) -> None:
    """101 of 152 rows are kept: 25 go at the top, 26 at the bottom."""
    assert is_cut(np.array([box]), (152, 100), ratio=1.01) is cut


@pytest.mark.parametrize("size", [(30, 20), (20, 30), (40, 25), (25, 40), (24, 24), (50, 20)])
@pytest.mark.parametrize("ratio", [2 / 3, 3 / 2])
def test_the_window_is_the_one_that_training_crops_to(size: tuple[int, int], ratio: float) -> None:
    """Standing images get a standing window, whichever way the input shape is given."""
    window = CropToAspect(short=2, long=3).get_transform(np.zeros((*size, 3)))
    kept = (window.y0, window.y0 + window.h), (window.x0, window.x0 + window.w)
    for axis, ((low, high), length) in enumerate(zip(kept, size, strict=True)):
        for place in range(length):
            box = [place, 9, place + 1, 10] if axis else [9, place, 10, place + 1]
            outside = (low > 0 or high < length) and (place <= low or place + 1 >= high)
            other = kept[1 - axis][0] >= 9 or kept[1 - axis][1] <= 10
            assert is_cut(np.array([box]), size, ratio) is (outside or other)


def test_nothing_is_cropped() -> None:
    assert not is_cut(np.array([(0, 0, 150, 100)]), (100, 150), ratio=2 / 3)
    assert not is_cut(np.zeros((0, 4)), (100, 150), ratio=1.0)


def test_folders_and_their_class_order(tiny_folder: Folder) -> None:
    first, second = tiny_folder("first"), tiny_folder("second", classes=("slate",))
    table = read_folders([first, second])
    assert table["folder"].unique().tolist() == [str(first.resolve()), str(second.resolve())] and table.index[0] == 2
    assert common_class_names([first, second], table) == ["brick", "concrete", "glass", "slate"]
    order = {"slate": 1, "glass": 2, "concrete": 3, "brick": 4}
    (second / "classes.json").write_text(json.dumps(order))
    assert common_class_names([first, second], table) == list(order)
    (first / "classes.json").write_text(json.dumps({"brick": 1}))
    with pytest.raises(RamsesError, match="second/classes.json differs from .*first/classes.json"):
        common_class_names([first, second], table)


@pytest.mark.parametrize(("names", "message"), [([], "once"), (["demo", "demo"], "once"), (["gone"], "no such folder")])
def test_folders_that_cannot_be_read(tiny_folder: Folder, names: list[str], message: str) -> None:
    parent = tiny_folder().parent
    with pytest.raises(RamsesError, match=message):
        read_folders([parent / name for name in names])


def test_empty_images(tiny_folder: Folder) -> None:
    folder = tiny_folder(count=(0, 3, 0), sizes=((64, 96),) * 3, resolution=(2.0, 2.0, 5.0))
    assert find_empty_images(read_folders([folder]), [folder]) == [
        (str(folder.resolve()), "img0", 2.0),
        (str(folder.resolve()), "img2", 5.0),
    ]
    (folder / "labels/img2.png").unlink()
    assert len(find_empty_images(read_folders([folder]), [folder])) == 1
