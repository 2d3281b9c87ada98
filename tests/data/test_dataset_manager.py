"""Choosing images: filters, caps, groups, seeds, the window of a crop, and split files that are read and saved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramses_d2.data.augmentation import CropToAspect
from ramses_d2.data.dataset_manager import DatasetManager, is_cut
from ramses_d2.data.splits import load_split, split_class_names
from ramses_d2.errors import RamsesError
from tests.conftest import edit_csv, refused, write_json, write_split

Folder = Callable[..., Path]
ROOT = Path(__file__).parents[2]
SIZE = (48, 72)


@pytest.fixture
def folder(tiny_folder: Folder) -> Path:
    """Twelve images of 1 ... 9 particles: brick (1), concrete (2), glass (3), brick (4) ..."""
    return tiny_folder(sizes=(SIZE,) * 12, count=[1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 3, 3])


def table_of(images: list[dict[str, int]], **columns: Any) -> pd.DataFrame:
    """Annotations of images p0, p1 ... with so many particles of each class; no files."""
    rows = [
        {"baseimg": f"p{index}", "class": name, "folder": "nowhere"}
        for index, counts in enumerate(images)
        for name, count in counts.items()
        for _ in range(count)
    ]
    table = pd.DataFrame(rows, columns=["baseimg", "class", "folder"])
    return table.assign(label=table.groupby("baseimg").cumcount() + 1, **columns)


def manager_of(images: list[dict[str, int]], **settings: Any) -> DatasetManager:
    return DatasetManager(table_of(images), filter_annotations=False, **settings)


def belts_of(images: list[dict[str, int]], belt: Callable[[pd.Series], pd.Series], **settings: Any) -> DatasetManager:
    """Images with a column belt, made of their numbers."""
    table = table_of(images)
    table["belt"] = belt(table["baseimg"].str[1:].astype(int))
    return DatasetManager(table, filter_annotations=False, **settings)


def names_of(*numbers: int) -> list[str]:
    return [f"demo/img{number}" for number in numbers]


def reasons_of(manager: DatasetManager) -> dict[str, str]:
    """Why images may not be used."""
    reasons = manager.images["reason"]
    return reasons[reasons != ""].to_dict()


def loaded(path: Path, subset: str) -> list[str]:
    return [dataset_dict["image_name"] for dataset_dict in load_split(path, subset)[0]]


# ---- which images may be used


def test_a_folder_and_its_limits(folder: Path) -> None:
    manager = DatasetManager.from_folders([folder], mininst=2, maxinst=8)
    assert manager.cls_to_idx == {"brick": 1, "concrete": 2, "glass": 3}
    assert reasons_of(manager) == {"demo/img0": "fewer than 2 particles", "demo/img8": "more than 8 particles"}
    assert not manager.annotations.loc[manager.annotations["baseimg"] == "img8", "VALID"].any()
    assert manager.annotations["VALID"].sum() == 3 + 4 + 5 + 6 + 7 + 8 + 2 + 9
    assert manager.candidates(exclude=["glass"]) == names_of(1)
    manager.filter_annotations()
    assert manager.images["VALID"].all()


def test_excluded_and_unknown_classes(folder: Path) -> None:
    manager = DatasetManager.from_folders([folder], exclude=["glass"])
    assert manager.candidates() == names_of(0, 1) and list(manager.cls_to_idx) == ["brick", "concrete"]
    assert manager.images.at["demo/img2", "reason"] == "class glass excluded"
    manager = DatasetManager.from_folders([folder], cls_to_idx={"brick": 1})
    assert manager.candidates() == names_of(0)
    assert manager.images.at["demo/img1", "reason"] == "class concrete not in the class list"


def test_resolution_missing_files_and_masses(folder: Path) -> None:
    edit_csv(folder, lambda t: t.assign(res=t["res"].where(t["baseimg"] != "img3", 1.5)))
    (folder / "images/img4.png").unlink()
    (folder / "labels/img5.png").unlink()
    edit_csv(folder, lambda t: t.assign(mass=t["mass"].where(t["baseimg"].isin(["img6", "img7"]) & (t["label"] > 1))))
    manager = DatasetManager.from_folders([folder], minres=2)
    reasons = ["resolution below 2 px/mm", "image missing", "label image missing"]
    assert list(reasons_of(manager).values()) == reasons
    assert manager.candidates(mass=True) == names_of(6, 7)  # one known mass is enough
    manager.create_split(0.5, mass=True)
    assert sorted(manager.train_basenames + manager.valid_basenames) == names_of(6, 7)


def test_a_particle_outside_of_the_crop(folder: Path) -> None:
    """48 x 72 cropped to a square keeps columns 12 ... 60; a single particle in the middle is 60 px wide."""
    manager = DatasetManager.from_folders([folder], input_shape=(64, 64))
    assert manager.images.at["demo/img0", "reason"] == "particle outside of the crop"
    for settings_of_crop in ({"input_shape": (64, 96)}, {"input_shape": (64, 64), "crop_to_aspect_ratio": False}):
        assert DatasetManager.from_folders([folder], **settings_of_crop).images["VALID"].all()


def test_images_without_particles(tiny_folder: Folder) -> None:
    folder = tiny_folder(sizes=(SIZE,) * 4, count=(0, 3, 0, 3), resolution=(2.0, 2.0, 5.0, 2.0))
    assert len(DatasetManager.from_folders([folder]).images) == 2
    manager = DatasetManager.from_folders([folder], mininst=0)
    assert manager.images["res"].to_dict() == dict(zip(names_of(0, 1, 2, 3), (2, 2, 5, 2), strict=True))
    manager.create_split(0.5)
    assert sorted(manager.train_basenames + manager.valid_basenames) == names_of(0, 1, 2, 3)
    assert loaded(manager.save(folder / "split"), "train") == manager.train_basenames
    (folder / "labels/img2.png").unlink()
    assert len(DatasetManager.from_folders([folder], mininst=0).images) == 3


# ---- sets


def test_create_set_fills_validation_then_training(folder: Path) -> None:
    manager = DatasetManager.from_folders([folder])
    manager.create_set(n=4, subset="valid", max_reuse=1)
    manager.create_set(n=30, subset="train", max_reuse=2)
    assert manager.valid_class_counts["brick"] <= 4 and max(manager.train_class_counts.values()) <= 30
    assert not set(manager.valid_basenames) & set(manager.train_basenames)
    assert max(Counter(manager.train_basenames).values()) == 2
    counted = pd.read_csv(folder / "annotations.csv").set_index("baseimg")["class"]
    expected = Counter(name for image in manager.train_basenames for name in counted.loc[[image[5:]]])
    assert manager.train_class_counts == expected
    with refused("'test'"):
        manager.create_set(subset="test")
    manager = DatasetManager.from_folders([folder])
    manager.create_set(6, "train", max_reuse=1, shuffle=False)  # in the order of the annotations
    assert manager.train_basenames == names_of(0, 1, 2, 3, 9)


def test_append_and_the_constraint_on_a_column(folder: Path) -> None:
    edit_csv(
        folder, lambda t: t.assign(id=t["baseimg"].isin(["img1", "img2", "img3"]).map({True: "old", False: "new"}))
    )
    manager = DatasetManager.from_folders([folder])
    manager.create_set(100, "train", max_reuse=2, dataset_name=("id", ["old"]))
    assert sorted(manager.train_basenames) == sorted(names_of(1, 2, 3) * 2)
    manager.create_set(100, "train", max_reuse=1, dataset_name=("id", ["old"]), constraint="not_in", append=True)
    assert Counter(manager.train_basenames) == Counter(names_of(1, 2, 3) + names_of(*range(12)))
    before = list(manager.train_basenames)
    manager.create_set(100, "train", append=True)  # nothing is left
    assert Counter(manager.train_basenames) == Counter(before)
    for options, words in (({"dataset_name": ("colour", ["red"])}, "'colour'"), ({"constraint": "like"}, "'like'")):
        with refused(words):
            manager.create_set(**{"dataset_name": ("id", ["old"])} | options)


def test_create_sets_validates_on_a_fifth_at_most() -> None:
    manager = manager_of([{"a": 1} for _ in range(40)] + [{"b": 2} for _ in range(20)])
    manager.create_sets(ntrain=24, nval=6, max_reuse=3)
    assert manager.valid_class_counts == {"a": 6, "b": 6}
    manager.create_sets(ntrain=24, nval=100, max_reuse=3)
    assert manager.valid_class_counts == {"a": 8, "b": 8} and manager.train_class_counts == {"a": 24, "b": 24}
    valid = list(manager.valid_basenames)
    manager.create_sets(ntrain=4, nval=1, append=True)
    assert manager.valid_class_counts == {"a": 9, "b": 8} and manager.train_class_counts["b"] <= 28
    assert set(valid) < set(manager.valid_basenames)
    assert not set(manager.train_basenames) & set(manager.valid_basenames)


@pytest.mark.parametrize("seed", range(3))
def test_validation_takes_whole_groups_and_leaves_the_groups_of_training_alone(seed: int) -> None:
    manager = belts_of([{"a": 1}] * 20, lambda number: number // 4, group_by="belt", seed=seed)
    manager.create_set(9, "valid")
    group = manager.images["group"]
    assert len(manager.valid_basenames) == 8 and group[manager.valid_basenames].nunique() == 2
    manager.create_set(100, "train")
    assert len(set(manager.train_basenames)) == 12
    manager.create_set(2, "train", max_reuse=1)
    manager.create_set(100, "valid")
    assert set(group[manager.valid_basenames]) == set(range(5)) - set(group[manager.train_basenames])


def test_filter_set(folder: Path) -> None:
    edit_csv(folder, lambda t: t.assign(id="new", mass=t["mass"].where(t["baseimg"] != "img2")))
    edit_csv(folder, lambda t: t.assign(id=t["id"].where(t["baseimg"] != "img3", "old")))
    manager = DatasetManager.from_folders([folder])
    manager.train_basenames, manager.valid_basenames = names_of(1, 2, 2, 3), names_of(3, 4)
    manager.other_subsets = {"test": names_of(2, 5)}
    manager.filter_set()
    assert (manager.train_basenames, manager.valid_basenames) == (names_of(1, 3), names_of(3, 4))
    assert manager.other_subsets == {"test": names_of(5)} and manager.train_class_counts["brick"] == 3
    manager.filter_set("old")
    assert (manager.train_basenames, manager.valid_basenames) == (names_of(1), names_of(4))
    manager.filter_set("old", hasmass=False, method="in")
    assert manager.subsets == {"test": []}
    with refused("column id"):
        manager_of([{"a": 1}]).filter_set("old")


def test_oversampling_stops_at_the_commonest_class() -> None:
    manager = manager_of([{"common": 10} for _ in range(10)] + [{"rare": 2} for _ in range(10)])
    manager.create_split(0.2, max_reuse=4)
    uses = Counter(manager.train_basenames)
    assert manager.train_class_counts == {"common": 80, "rare": 64} and max(uses.values()) == 4
    assert manager.train_basenames == sorted(manager.train_basenames)
    manager.create_split(0.2, max_per_class=20)
    assert manager.train_class_counts == {"common": 20, "rare": 16}
    assert manager.valid_class_counts == {"common": 20, "rare": 4}
    for share in (0, 1, float("nan")):
        with refused("between 0 and 1"):
            manager.create_split(share)


def test_folds(folder: Path) -> None:
    manager = DatasetManager.from_folders([folder])
    manager.create_folds(3)
    assert list(manager.subsets) == [f"fold{index}-{side}" for index in range(3) for side in ("train", "valid")]
    validated = [name for index in range(3) for name in manager.subsets[f"fold{index}-valid"]]
    assert sorted(validated) == sorted(manager.images.index)
    for index in range(3):
        train, valid = (set(manager.subsets[f"fold{index}-{side}"]) for side in ("train", "valid"))
        assert not train & valid and train | valid == set(manager.images.index)
    assert loaded(manager.save(folder / "folds.json"), "fold1-valid") == manager.subsets["fold1-valid"]
    with refused("1 folds"):
        manager.create_folds(1)


def test_report_names_the_classes_that_validation_lacks() -> None:
    manager = manager_of([{"a": 2, "b": 1}, {"a": 1}])
    manager.train_basenames, manager.valid_basenames = ["nowhere/p0", "nowhere/p0"], ["nowhere/p1"]
    manager.update_info()
    assert manager.report().to_dict() == {"train": {"a": 4, "b": 2}, "valid": {"a": 1, "b": 0}}
    assert manager.missing_classes() == ["b"] and manager.missing_classes("train") == []


def test_what_cannot_be_managed(folder: Path) -> None:
    for missing in ("folder", "label", "class"):
        with refused(f"column {missing}"):
            DatasetManager(table_of([{"a": 1}]).drop(columns=missing))
    with refused("nowhere: no such folder"):
        DatasetManager(table_of([{"a": 1}]))
    with refused("none of 12 images", "resolution below 10 px/mm"):
        DatasetManager.from_folders([folder], minres=10).create_split()


# ---- properties

IMAGES = st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(1, 5), min_size=1), min_size=4, max_size=25)
CAPS = {"ntrain": st.integers(1, 30), "nval": st.integers(0, 30), "max_reuse": st.integers(0, 3)}


@settings(max_examples=50, deadline=None)
@given(images=IMAGES, grouped=st.booleans(), at_once=st.booleans(), seed=st.integers(0, 99), **CAPS)
def test_no_image_and_no_group_on_both_sides(
    images: list[dict[str, int]], grouped: bool, at_once: bool, seed: int, ntrain: int, nval: int, max_reuse: int
) -> None:
    manager = belts_of(images, lambda number: number % 7, seed=seed, group_by="belt" if grouped else None)

    def check(capped: bool) -> None:
        train, valid = set(manager.train_basenames), set(manager.valid_basenames)
        group = manager.images["group"]
        assert not set(group[list(train)]) & set(group[list(valid)])
        if capped:
            assert max(manager.train_class_counts.values()) <= ntrain
            assert max(manager.valid_class_counts.values()) <= nval
            assert max(Counter(manager.train_basenames).values(), default=0) <= max(1, max_reuse)
        counts = manager.counts.loc[manager.train_basenames].sum()
        assert manager.train_class_counts == counts.to_dict()

    if at_once:
        manager.create_sets(ntrain, nval, max_reuse=max_reuse)
    else:
        manager.create_set(nval, "valid", max_reuse=1)
        manager.create_set(ntrain, "train", max_reuse=max_reuse)
    check(capped=True)
    manager.create_set(nval, "valid", append=True, max_reuse=1)
    manager.create_set(ntrain, "train", append=True)
    check(capped=False)
    if manager.images["group"].nunique() > 1:
        try:
            manager.create_split(0.3, max_per_class=ntrain, max_reuse=max_reuse)
            assert max(manager.train_class_counts.values()) <= ntrain
        except RamsesError as error:
            assert f"{ntrain} particles per class: each of" in str(error)
        check(capped=False)


DRAW = """
import json, sys
from ramses_d2.data.dataset_manager import DatasetManager
manager = DatasetManager.from_folders([sys.argv[1]], seed=4)
manager.create_sets(12, 4, max_reuse=2)
drawn = [manager.subsets]
manager.create_split(0.25, max_reuse=2)
drawn.append(manager.subsets)
manager.create_folds(3)
print(json.dumps([*drawn, manager.subsets]))
"""


def test_same_seed_same_split_in_a_fresh_process(folder: Path) -> None:
    """The hash seed of this process is another one than that of the fresh one."""
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", DRAW, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    sets, split, folds = json.loads(done.stdout)

    manager = DatasetManager.from_folders([folder], seed=99)
    manager.create_sets(50, 9, seed=7)  # what was drawn before has no influence
    manager.seed = 4
    manager.create_sets(12, 4, max_reuse=2)
    assert manager.subsets == sets and len(sets["train"]) > 4
    manager.create_sets(12, 4, max_reuse=2, seed=5)
    assert manager.subsets != sets
    manager.create_split(0.25, max_reuse=2, seed=4)
    assert manager.subsets == split
    manager.create_folds(3)
    assert manager.subsets == folds


def test_the_order_of_rows_does_not_matter_and_a_drawn_seed_is_kept() -> None:
    table = table_of([{"a": 1 + index % 3} for index in range(20)])
    managers = [DatasetManager(rows, filter_annotations=False, seed=None) for rows in (table, table[::-1])]
    managers[0].create_sets(9, 3)
    assert managers[0].seed is not None
    managers[1].create_sets(9, 3, seed=managers[0].seed)
    assert managers[0].subsets == managers[1].subsets
    for manager in managers:
        manager.create_split(0.3, seed=6)
    assert managers[0].subsets == managers[1].subsets


# ---- names, folders, and the window of a crop


def test_keys_are_the_last_parts_of_paths_and_differ() -> None:
    table = pd.concat([table_of([{"a": 1}]).assign(folder=f) for f in ("/a/one", "D:\\b\\one", "/c/two/", "/d/one-2")])
    manager = DatasetManager(table, filter_annotations=False)
    keys = {"/a/one": "one", "D:\\b\\one": "one-2", "/c/two/": "two", "/d/one-2": "one-2-2"}
    assert manager.folders == keys and manager.images.index.tolist() == [f"{key}/p0" for key in keys.values()]


def test_images_of_one_base_name_are_kept_apart_unless_names_are_bare() -> None:
    rows = pd.DataFrame({"folder": ["x", "x", "y"], "baseimg": ["a.jpg", "a.jpg", "a"], "res": [2.0, 2.0, 3.0]})
    rows = rows.assign(label=[1, 2, 1], **{"class": "b"})
    manager = DatasetManager(rows, filter_annotations=False, empty=[("y", "b", 5.0)])
    assert manager.images.index.tolist() == ["x/a", "y/a", "y/b"] and manager.images["res"].tolist() == [2, 3, 5]
    assert manager.counts["b"].tolist() == [2, 1, 0]
    manager = DatasetManager(rows, filter_annotations=False, bare_names=True)
    assert manager.places["image"].tolist() == ["a", "a"] and manager.counts["b"].to_dict() == {"a": 3}


def test_folders_and_their_class_order(tiny_folder: Folder) -> None:
    first, second = tiny_folder("first"), tiny_folder("second", classes=("slate",))
    manager = DatasetManager.from_folders([first, second])
    assert list(manager.cls_to_idx) == ["brick", "concrete", "glass", "slate"]
    assert list(manager.folders) == [str(first.resolve()), str(second.resolve())]
    order = {"slate": 1, "glass": 2, "concrete": 3, "brick": 4}
    write_json(second / "classes.json", order)
    assert DatasetManager.from_folders([first, second]).cls_to_idx == order
    write_json(first / "classes.json", {"brick": 1})
    for folders, words in (
        ([first, second], ["second/classes.json differs", "first/classes.json"]),
        ([], ["(none)", "once"]),
        ([first, first], [str(first), "once"]),
        ([first.parent / "gone"], ["gone: no such folder"]),
    ):
        with refused(*words):
            DatasetManager.from_folders(folders)


@pytest.mark.parametrize(
    ("size", "ratio", "boxes", "cut"),
    [
        # A 100 x 150 image cropped to a square: the window is columns 25 ... 125; rows are not cropped
        ((100, 150), 1.0, [(50, 50, 60, 60), (26, 0, 124, 100)], False),
        *(
            ((100, 150), 1.0, [(50, 50, 60, 60), box], True)
            for box in ((25, 10, 60, 20), (0, 10, 20, 20), (60, 10, 125, 20), (130, 10, 150, 20))
        ),
        # 101 of 152 rows are kept: 25 go at the top, 26 at the bottom
        ((152, 100), 1.01, [(0, 26, 90, 125)], False),
        *(((152, 100), 1.01, [box], True) for box in ((0, 25, 9, 60), (0, 60, 9, 126), (0, 0, 9, 20))),
        ((100, 150), 2 / 3, [(0, 0, 150, 100)], False),  # nothing is cropped
        ((100, 150), 1.0, np.zeros((0, 4)), False),
    ],
)
def test_boxes_that_a_crop_cuts(size: tuple[int, int], ratio: float, boxes: Any, cut: bool) -> None:
    assert is_cut(np.array(boxes), size, ratio) is cut


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


# ---- split files

ORIGINAL_SPLITS = Path(__file__).parents[2] / "../shared/data/ramses2-splits"


@pytest.fixture
def two_folders(tiny_folder: Folder) -> list[Path]:
    """Equal base names, different contents."""
    return [tiny_folder("first", sizes=(SIZE,) * 6, count=4), tiny_folder("second", sizes=(SIZE,) * 6, count=6)]


def test_our_split_file_is_read_back(two_folders: list[Path], tmp_path: Path) -> None:
    manager = DatasetManager.from_folders(two_folders, mininst=2, exclude=[], seed=3)
    manager.create_split(0.25, max_reuse=2)
    assert {name.partition("/")[0] for name in manager.train_basenames} == {"first", "second"}
    (tmp_path / "splits").mkdir()
    path = manager.save(tmp_path / "splits/mine")
    split = json.loads(path.read_text())
    assert split["folders"] == {"first": "../first", "second": "../second"}
    assert loaded(path, "valid") == manager.valid_basenames
    assert load_split(path, "valid")[1] == ["brick", "concrete", "glass"]

    split |= {"comment": "ours", "subsets": split["subsets"] | {"test": ["first/img0"]}}
    write_json(path, split)
    again = DatasetManager.from_file(path)
    assert (again.train_basenames, again.seed, again.mininst) == (manager.train_basenames, 3, 2)
    assert again.train_class_counts == manager.train_class_counts
    assert again.other_subsets == {"test": ["first/img0"]}
    assert json.loads(again.save(tmp_path / "splits/again.json").read_text()) == split


def test_a_split_file_by_hand(two_folders: list[Path], tmp_path: Path) -> None:
    content = {"folders": {"x": "first", "y": "second"}, "classes": ["glass", "concrete", "brick"]}
    content["subsets"] = {"train": ["x/img0", "y/img0"], "valid": ["y/img1"]}
    path = write_split(tmp_path / "split.json", **content)
    manager = DatasetManager.from_file(path)
    assert manager.train_class_counts == {"brick": 4, "concrete": 3, "glass": 3}
    assert manager.cls_to_idx == {"glass": 1, "concrete": 2, "brick": 3}
    manager.create_set(100, "train", max_reuse=1)
    assert len(manager.train_basenames) == 11 and "y/img1" not in manager.train_basenames
    with refused("x.csv", "split.json"):
        DatasetManager.from_file(path, tmp_path / "x.csv")
    for changes, words in (
        ({"folders": {"x": "first", "y": "./first"}}, "folders"),
        ({"settings": []}, "'settings'"),
        ({"subsets": {"train": "x/img0"}}, "train"),
    ):
        with refused("split.json", words):
            DatasetManager.from_file(write_split(path, **content | changes))


def save_as_ramses2(path: Path, folders: dict[str, str], **content: Any) -> Path:
    """RAMSES2's JSON and CSV of folders (path -> path written in the CSV)."""
    ids = {"brick": 1, "concrete": 2, "glass": 3}
    tables = [pd.read_csv(Path(folder) / "annotations.csv").assign(folder=text) for folder, text in folders.items()]
    table = pd.concat(tables)
    table.assign(VALID=table["baseimg"] != "img8").to_csv(path.with_suffix(".csv"), index=False)
    return write_json(path, {"cls_to_idx": ids, "seed": 4, "train": [], "valid": []} | content)


def test_a_ramses2_split_is_read_and_saved_as_ours(folder: Path) -> None:
    counts = {"brick": 1, "concrete": 0, "glass": 0}
    settings = {"dataset_id": "20250101-000000", "input_shape": [64, 96], "crop_to_ar": True, "maxinst": 8, "minres": 1}
    lists = {"train": ["img0", "img0", "img3"], "valid": ["img1"], "valid_class_counts": counts, "note": "kept"}
    path = save_as_ramses2(folder / "SPLIT.v1.json", {str(folder): str(folder)}, **settings, **lists)
    csv_path = folder / "SPLIT.v1.csv"
    for paths in ([path], [csv_path, path], [path, csv_path]):
        manager = DatasetManager.from_file(*paths)
        assert (manager.train_basenames, manager.valid_basenames) == (["img0", "img0", "img3"], ["img1"])
        assert (manager.dataset_id, manager.seed, manager.maxinst) == ("20250101-000000", 4, 8)
        assert manager.input_shape == (64, 96) and manager.crop_to_aspect_ratio
    assert manager.valid_class_counts == counts
    assert manager.train_class_counts == {"brick": 4, "concrete": 1, "glass": 1}
    assert reasons_of(manager) == {"img8": "VALID is not True"}
    with refused("gone.csv: no such file"):
        DatasetManager.from_file(path, folder / "gone.csv")
    ours = json.loads(manager.save(folder / "ours.json").read_text())
    assert ours["subsets"]["train"] == names_of(0, 0, 3) and ours["folders"] == {"demo": "."} and ours["note"] == "kept"
    manager.create_sets(12, 3, max_reuse=2)
    assert manager.dataset_id is None


def test_a_ramses2_csv_from_another_computer(folder: Path) -> None:
    folders = {str(folder): "D:\\data\\demo"}
    path = save_as_ramses2(folder.parent / "SPLIT.json", folders, train=["img1"], valid=["img2"])
    ours = json.loads(DatasetManager.from_file(path).save(folder.parent / "ours.json").read_text())
    assert ours["folders"] == {"demo": "demo"} and ours["subsets"]["valid"] == names_of(2)


def test_equal_base_names_of_a_ramses2_split_stay_together(two_folders: list[Path], tmp_path: Path) -> None:
    folders = {str(each): str(each) for each in two_folders}
    path = save_as_ramses2(tmp_path / "OLD.json", folders, train=["img0", "img0"], valid=["img1"])
    manager = DatasetManager.from_file(path)
    assert sum(manager.train_class_counts.values()) == 20
    assert json.loads(manager.save(tmp_path / "ours").read_text())["subsets"]["valid"] == ["first/img1", "second/img1"]
    manager.create_split(0.5)
    assert not set(manager.train_basenames) & set(manager.valid_basenames)


def test_files_are_replaced_only_when_asked_and_only_splits(folder: Path) -> None:
    manager = DatasetManager.from_folders([folder])
    manager.create_split()
    path = manager.save(folder / "split.json")
    before = path.read_text()
    for name, force, words in (
        ("split.json", False, "--force"),
        ("metadata.json", True, "not a split file"),
        ("no/split.json", False, "existing folder"),
    ):
        with refused(name, words):
            manager.save(folder / name, force=force)
    manager.create_split(seed=1)
    manager.save(path, force=True)
    assert path.read_text() != before
    assert "annotations.json" not in {p.name for p in folder.iterdir()}


@pytest.mark.parametrize("paths", [[], ["a.csv"], ["a.json", "b.json"]])
def test_paths_that_are_no_split(paths: list[str]) -> None:
    with refused(", ".join(paths) or "(none)", "JSON"):
        DatasetManager.from_file(*paths)


COUNTS = {
    "15CLS_20250723-173206": (3472, 2194, {1: 916, 2: 1278}, 145012, 4998, 20749, 500),
    "15CLS_20250723-173206_MASS_ONLY": (2897, 1750, {1: 603, 2: 1147}, 120820, 5000, 19749, 502),
}


@pytest.mark.skipif(not ORIGINAL_SPLITS.is_dir(), reason="the published RAMSES2 splits are not at hand")
@pytest.mark.parametrize("name", list(COUNTS))
def test_published_splits(name: str, tmp_path: Path) -> None:
    """Known counts; their CSVs were never published."""
    path = ORIGINAL_SPLITS / f"{name}.json"
    manager = DatasetManager.from_file(path)
    entries, unique, uses, particles, valid_particles, rc, x01 = COUNTS[name]
    train = Counter(manager.train_basenames)
    assert (len(manager.train_basenames), len(train), Counter(train.values())) == (entries, unique, uses)
    assert len(manager.valid_basenames) == len(set(manager.valid_basenames)) == 258
    assert not set(train) & set(manager.valid_basenames)
    assert sum(manager.train_class_counts.values()) == particles
    assert sum(manager.valid_class_counts.values()) == valid_particles
    assert (manager.train_class_counts["Rc"], manager.valid_class_counts["X01"]) == (rc, x01)
    assert sorted(manager.missing_classes()) == ["Coin", "Rcu01", "Rg", "X02", "X03"]
    assert manager.report().at["Rc", "train"] == rc and manager.seed == 4
    for impossible in (lambda: manager.save(tmp_path / "ours.json"), manager.create_set, manager.create_split):
        with refused("CSV"):
            impossible()
    names = split_class_names(path)
    assert (names[0], names[6], names[14], len(names)) == ("Ra", "Ru02", "Rg", 15)
    with refused(f"{name}.csv: no such file"):
        load_split(path, "train")
