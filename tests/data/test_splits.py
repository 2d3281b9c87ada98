"""Split files, ours and RAMSES2's; groups; and properties of sides and capped draws that must hold for any data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramses_d2.data.dataset_manager import DatasetManager
from ramses_d2.data.splits import (
    assign_sides,
    draw_capped,
    group_keys,
    group_numbers,
    has_batches,
    load_split,
    split_class_names,
    subset_names,
)
from tests.conftest import edit_csv, refused, write_json, write_split

Folder = Callable[..., Path]
CLASSES = ["glass", "brick", "concrete"]
OURS = {
    "folders": {"a": "first", "b": "second"},
    "subsets": {"train": ["b/img1", "a/img0", "b/img1", "b/img0"], "valid": ["a/img1"], "empty": []},
}


@pytest.fixture
def two_folders(tiny_folder: Folder) -> Path:
    """Two folders with equal base names and different contents; returns their parent."""
    tiny_folder(name="first", count=4)
    return tiny_folder(name="second", count=6).parent


def loaded(path: Path, subset: str = "train") -> list[tuple[str, int, int]]:
    """Name, id and number of particles of every image of a subset."""
    return [(each["image_name"], each["image_id"], len(each["annotations"])) for each in load_split(path, subset)[0]]


def test_ours(two_folders: Path) -> None:
    path = write_split(two_folders / "split.json", **OURS)
    dataset_dicts, class_names = load_split(path, "train")
    assert class_names == split_class_names(path) == CLASSES
    assert loaded(path) == [("b/img1", 1, 6), ("a/img0", 2, 4), ("b/img1", 1, 6), ("b/img0", 3, 6)]
    assert "second" in dataset_dicts[0]["file_name"] and "first" in dataset_dicts[1]["label_file_name"]
    assert dataset_dicts[1]["annotations"][0]["category_id"] == 1
    assert subset_names(path) == ["train", "valid", "empty"] and loaded(path, "empty") == []
    path = write_split(two_folders / "first/split.json", subsets={"train": ["demo/img1"]})  # of its own folder
    assert loaded(path) == [("demo/img1", 1, 4)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "other"}, ["split.json: not a split file"]),
        ({"version": 2}, ["split.json: not a split file"]),
        *(({key: None}, ["split.json", f"'{key}'"]) for key in ("classes", "folders")),
        ({"subsets": ["train"]}, ["split.json", "'subsets'"]),
        ({"subsets": {"val": []}}, ["split.json", "'train'", "has val"]),
        ({"subsets": {"train": ["a/img0", "a/img7"]}}, ["split.json", "1 images", "'train'", "'a/img7'"]),
        *(({"subsets": {"train": [name]}}, ["split.json", repr(name), "a, b"]) for name in ("c/img0", "img0")),
        ({"folders": {"a": "nowhere", "b": "second"}}, ["nowhere: no such folder"]),
        *(({"subsets": {"train": names}}, ["split.json: train"]) for names in ([1], "a/img0")),
        ({"folders": {"a": 1, "b": "second"}}, ["split.json: folders"]),
        ({"classes": [1]}, ["split.json: folders"]),
        ({"classes": ["glass"]}, ["annotations.csv, row 2", "class 'brick'"]),
    ],
)
def test_faults_of_ours(two_folders: Path, changes: dict[str, Any], words: list[str]) -> None:
    with refused(*words):
        load_split(write_split(two_folders / "split.json", **OURS | changes), "train")


def write_original(
    parent: Path,
    folders: dict[str, str],
    train: list[str],
    valid: list[str],
    change: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table,
) -> Path:
    """The original's JSON + CSV of ``folders`` (name below parent -> path written in the CSV)."""
    ids = {name: index for index, name in enumerate(CLASSES, start=1)}
    path = write_json(parent / "SPLIT.json", {"cls_to_idx": ids, "train": train, "valid": valid, "seed": 4})
    tables = [
        pd.read_csv(parent / name / "annotations.csv").assign(folder=text, id="x", VALID=True)
        for name, text in folders.items()
    ]
    change(pd.concat(tables)).to_csv(path.with_suffix(".csv"), index=False)
    return path


@pytest.mark.parametrize("prefix", ["", "D:\\data\\", "/home/someone/"])
def test_original(two_folders: Path, prefix: str) -> None:
    path = write_original(two_folders, {"second": f"{prefix}second"}, ["img1", "img1"], ["img0"])
    assert split_class_names(path) == load_split(path, "train")[1] == CLASSES
    assert subset_names(path) == ["train", "valid"]
    assert loaded(path) == [("second/img1", 1, 6)] * 2 and loaded(path, "valid") == [("second/img0", 1, 6)]


@pytest.mark.parametrize(("in_csv", "in_json"), [("{}.jpg", "{}"), ("{}.png", "{}.png"), ("images/{}.png", "{}.jpg")])
def test_original_names_with_extension(two_folders: Path, in_csv: str, in_json: str) -> None:
    path = write_original(
        two_folders,
        {"second": "second"},
        [in_json.format("img1")],
        [],
        lambda table: table.assign(baseimg=table["baseimg"].map(in_csv.format)),
    )
    assert loaded(path) == [("second/img1", 1, 6)]


def test_original_keeps_equal_base_names_apart(two_folders: Path) -> None:
    """An image comes only from the folder that its rows name."""
    folders = {"first": "first", "second": "second"}
    assert loaded(write_original(two_folders, folders, ["img0"], [])) == [("first/img0", 1, 4), ("second/img0", 2, 6)]
    path = write_original(
        two_folders, folders, ["img0", "img1"], [], lambda table: table.query("folder == 'second' or baseimg == 'img1'")
    )
    assert loaded(path) == [("second/img0", 1, 6), ("first/img1", 2, 4), ("second/img1", 3, 6)]


def test_faults_of_the_original(two_folders: Path) -> None:
    path = write_original(two_folders, {"first": "first"}, ["img0", "img9"], [None])
    with refused("SPLIT.json: valid"):
        load_split(path, "train")
    path = write_original(two_folders, {"first": "first"}, ["img0", "img9"], [])
    with refused("SPLIT.json", "'img9'"):
        load_split(path, "train")
    path = write_original(two_folders, {"first": "C:\\gone"}, ["img0"], [])
    with refused("SPLIT.csv", repr("C:\\gone"), "as"):
        load_split(path, "train")
    path = write_original(two_folders, {"first": "first"}, ["img0"], [], lambda table: table.drop(columns="folder"))
    with refused("SPLIT.csv", "column folder"):
        load_split(path, "train")
    path.with_suffix(".csv").unlink()
    with refused("SPLIT.csv: no such file"):
        load_split(path, "train")


@pytest.mark.parametrize("form", ["{}.tif", "images/{}.png", "{}.JPG"])
def test_particles_are_found_under_other_forms_of_the_name(two_folders: Path, form: str) -> None:
    """They would be trained on as empty images otherwise."""
    folder = two_folders / "first"
    edit_csv(folder, lambda table: table.assign(baseimg=table["baseimg"].map(form.format)))
    split = DatasetManager.from_folders([folder], seed=1)
    split.create_split(0.5)
    split.save(two_folders / "new.json")
    assert [particles for _, _, particles in loaded(two_folders / "new.json")] == [4]


# ---- groups


@pytest.fixture
def images(tmp_path: Path) -> pd.DataFrame:
    """Two folders with images belt_1, belt_2 and other; the first has metadata."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    metadata = {
        "images": [{"file_name": "belt_1.jpg", "tag": "wet"}, {"file_name": "belt_2.jpg", "tag": ""}],
        "batches": [{"image_names": ["belt_1.jpg", "other.png"], "mass": {}}],
    }
    write_json(tmp_path / "a/metadata.json", metadata)
    places = [(f"{name}/{base}", str(tmp_path / name), base) for name in "ab" for base in ("belt_1", "belt_2", "other")]
    return pd.DataFrame(places, columns=["image", "folder", "base"]).set_index("image")


@pytest.fixture
def rows(images: pd.DataFrame) -> pd.DataFrame:
    """Two rows per image but the last, which has none."""
    names = [name for name in images.index[:-1] for _ in range(2)]
    lanes = ["left", "left", "right", None, "", None, "left", "left", 7, 7]
    return pd.DataFrame({"image": names, "lane": lanes, "mixed": range(len(names))})


@pytest.mark.parametrize(
    ("group_by", "keys"),
    [
        ("regex:^belt", ["belt", "belt", None] * 2),
        ("regex:(.)_([0-9])|(o)", [("t", "1", None), ("t", "2", None), (None, None, "o")] * 2),
        ("batch", [1, None, 1, None, None, None]),  # only within a folder
        ("lane", ["left", "right", None, "left", 7, None]),  # a column
        ("tag", ["wet", None, None, None, None, None]),  # a field of the metadata
    ],
)
def test_group_keys(
    images: pd.DataFrame, rows: pd.DataFrame, caplog: pytest.LogCaptureFixture, group_by: str, keys: list[Any]
) -> None:
    if group_by == "batch":
        keys = [key and (images["folder"].iloc[0], key) for key in keys]
        assert has_batches(images) and not has_batches(images.iloc[3:])
    assert group_keys(group_by, images, rows) == keys
    assert (f"{keys.count(None)} of 6 images are in no group" in caplog.text) == (None in keys)


@pytest.mark.parametrize(
    ("group_by", "words"),
    [
        ("regex:(", ["regex:(", "not a regular expression"]),
        ("batch", ["batch", "no metadata.json"]),
        ("mixed", ["column mixed", "b/belt_1", "(6, 7)"]),
        ("colour", ["group by colour"]),
    ],
)
def test_what_cannot_group(images: pd.DataFrame, rows: pd.DataFrame, group_by: str, words: list[str]) -> None:
    with refused(*words):
        group_keys(group_by, images.iloc[3:], rows.iloc[6:])


def test_group_numbers() -> None:
    assert group_numbers(["b", None, "a", "b", None, 3]).tolist() == [0, 1, 2, 0, 3, 4]
    assert group_numbers([]).tolist() == []
    assert len(set(group_numbers([1, None, ("x", 1), 0]))) == 4  # a key cannot meet the number of a lonely image


# ---- sides and draws

COUNTS = st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1, max_size=40).map(np.array)


def skewed(images: int, classes: int = 12) -> np.ndarray:
    """Counts like those of real data: most images hold a few classes."""
    rng = np.random.default_rng(3)
    return rng.poisson(40 * rng.dirichlet(np.full(classes, 0.2), size=images))


def sides_of(
    counts: np.ndarray,
    shares: tuple[float, ...],
    seed: int = 0,
    groups: np.ndarray | None = None,
    stratify: bool = True,
) -> np.ndarray:
    groups = np.arange(len(counts)) if groups is None else groups
    return assign_sides(counts, groups, shares, stratify=stratify, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.2,) * 5])
def test_stratified_sides_have_their_share_of_every_class(shares: tuple[float, ...]) -> None:
    counts = skewed(400)
    side = sides_of(counts, shares)
    for index, share in enumerate(shares):
        assert (side == index).mean() == pytest.approx(share, abs=0.01)
        assert counts[side == index].sum(axis=0) / counts.sum(axis=0) == pytest.approx(share, abs=0.015)
    # ... which drawing images alone does not give
    side = sides_of(counts, shares, stratify=False)
    assert (side == 0).mean() == pytest.approx(shares[0], abs=0.003)
    off = counts[side == 0].sum(axis=0) / counts.sum(axis=0) - shares[0]
    assert np.abs(off).max() > 0.03


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_is_on_both_sides_where_two_groups_have_it(seed: int) -> None:
    counts = np.zeros((30, 3), int)
    counts[:, 0] = 20
    counts[[4, 5], 1] = 1
    counts[8, 2] = 1
    side = sides_of(counts, (0.9, 0.1), seed)
    assert set(side[[4, 5]]) == {0, 1} and side[8] == 0
    assert (side == 1).sum() in (2, 3, 4)


def test_the_seed_matters_and_groups_must_suffice() -> None:
    for stratify in (True, False):
        assert len({sides_of(skewed(60), (0.8, 0.2), seed, stratify=stratify).tobytes() for seed in range(5)}) == 5
    with refused("5 images in 1 groups", "2 sides"):
        sides_of(np.ones((5, 1), int), (0.5, 0.5), groups=np.zeros(5, int))


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.lists(st.integers(0, 12), min_size=40, max_size=40), st.integers(2, 4), st.booleans(), st.integers(0))
def test_groups_stay_whole_and_no_side_is_empty(
    counts: np.ndarray, keys: list[int], sides: int, stratify: bool, seed: int
) -> None:
    groups = group_numbers(keys[: len(counts)])
    shares = (*[0.05] * (sides - 1), 1 - 0.05 * (sides - 1))
    if groups.max() + 1 < sides:
        return
    side = sides_of(counts, shares, seed, groups, stratify)
    assert sorted(set(side)) == list(range(sides))
    for group in set(groups):
        assert len(set(side[groups == group])) == 1
    assert side.tolist() == sides_of(counts, shares, seed, groups, stratify).tolist()


@settings(max_examples=100, deadline=None)
@given(COUNTS, st.lists(st.integers(0, 60), min_size=3, max_size=3), st.integers(0, 4), st.none() | st.integers(0, 9))
def test_caps_are_never_exceeded_nor_is_the_reuse(
    counts: np.ndarray, caps: list[int], max_reuse: int, seed: int | None
) -> None:
    rng = None if seed is None else np.random.default_rng(seed)
    drawn = draw_capped(counts, np.array(caps), max_reuse=max_reuse, rng=rng)
    assert (counts[drawn].sum(axis=0) <= caps).all()
    uses = np.bincount(drawn, minlength=len(counts))
    assert (uses <= max(1, max_reuse)).all() and (uses[~counts.any(axis=1)] == 1).all()
    # Nothing is left out that still fits, unless every class is full
    total = counts[drawn].sum(axis=0)
    for index in np.flatnonzero(uses == 0):
        assert (total + counts[index] > caps).any()
    if (total < caps).any():
        for index in np.flatnonzero(uses < max(1, max_reuse)):
            assert (total + counts[index] > caps).any() or not counts[index].any()


def test_repeats_are_for_classes_below_their_cap() -> None:
    counts = np.array([[5, 0], [5, 0], [0, 2]])
    assert sorted(draw_capped(counts, np.array([10, 10]), max_reuse=3)) == [0, 1, 2, 2, 2]
    assert draw_capped(counts, np.array([10, 2]), max_reuse=3) == [0, 1, 2]
    # a class that does not count asks for no repeats, but its cap holds
    ignored = np.array([False, True])
    assert draw_capped(counts, np.array([10, 10]), max_reuse=3, not_counting=ignored) == [0, 1, 2]
    assert draw_capped(counts, np.array([10, 1]), max_reuse=3, not_counting=ignored) == [0, 1]
    for max_reuse, uses in ((0, 1), (1, 1), (2, 2)):  # as in the original, 0 and 1 both mean once
        assert draw_capped(np.array([[1]]), np.array([100]), max_reuse=max_reuse) == [0] * uses
