"""Split files, ours and RAMSES2's; groups; and properties of sides and capped draws that must hold for any data."""

from __future__ import annotations

import json
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
        ({"subsets": {"train": [1]}}, "split.json: train is not a list of image names"),
        ({"subsets": {"train": "a/img0"}}, "split.json: train is not a list of image names"),
        ({"folders": {"a": 1, "b": "second"}}, "split.json: folders must be paths, and classes names"),
        ({"classes": [1]}, "split.json: folders must be paths, and classes names"),
        ({"classes": ["glass"]}, "row 2: class 'brick' is not in the class list"),
    ],
)
def test_errors(two_folders: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RamsesError, match=message):
        load_split(write_split(two_folders, **changes), "train")


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
    with pytest.raises(RamsesError, match="valid is not a list of image names"):
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


# ---- groups


@pytest.fixture
def images(tmp_path: Path) -> pd.DataFrame:
    """Two folders with images belt_1, belt_2 and other; the first has metadata."""
    metadata = {
        "images": [{"file_name": "belt_1.jpg", "tag": "wet"}, {"file_name": "belt_2.jpg", "tag": ""}],
        "batches": [{"image_names": ["belt_1.jpg", "other.png"], "mass": {}}],
    }
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/metadata.json").write_text(json.dumps(metadata))
    places = [(f"{name}/{base}", str(tmp_path / name), base) for name in "ab" for base in ("belt_1", "belt_2", "other")]
    return pd.DataFrame(places, columns=["image", "folder", "base"]).set_index("image")


@pytest.fixture
def rows(images: pd.DataFrame) -> pd.DataFrame:
    """Two rows per image but the last, which has none."""
    names = [name for name in images.index[:-1] for _ in range(2)]
    lanes = ["left", "left", "right", None, "", None, "left", "left", 7, 7]
    return pd.DataFrame({"image": names, "lane": lanes, "mixed": range(len(names))})


def test_by_regular_expression(images: pd.DataFrame, rows: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    assert group_keys("regex:^belt", images, rows) == ["belt", "belt", None] * 2
    assert "2 of 6 images are in no group" in caplog.text
    assert group_keys("regex:(.)_([0-9])|(o)", images, rows)[:3] == [
        ("t", "1", None),
        ("t", "2", None),
        (None, None, "o"),
    ]
    with pytest.raises(RamsesError, match="not a regular expression"):
        group_keys("regex:(", images, rows)


def test_by_batch_only_within_a_folder(images: pd.DataFrame, rows: pd.DataFrame) -> None:
    folder = images["folder"].iloc[0]
    assert group_keys("batch", images, rows) == [(folder, 1), None, (folder, 1), None, None, None]
    assert has_batches(images) and not has_batches(images.iloc[3:])
    with pytest.raises(RamsesError, match="no metadata.json"):
        group_keys("batch", images.iloc[3:], rows)


def test_by_column(images: pd.DataFrame, rows: pd.DataFrame) -> None:
    assert group_keys("lane", images, rows) == ["left", "right", None, "left", 7, None]
    with pytest.raises(RamsesError, match=r"image a/belt_1 has several values \(0, 1\)"):
        group_keys("mixed", images, rows)


def test_by_field_of_the_metadata(images: pd.DataFrame, rows: pd.DataFrame) -> None:
    assert group_keys("tag", images, rows) == ["wet", None, None, None, None, None]
    with pytest.raises(RamsesError, match="group by colour: neither a column"):
        group_keys("colour", images, rows)


# ---- sides and draws

COUNTS = st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1, max_size=40).map(np.array)


def skewed(images: int, classes: int = 12) -> np.ndarray:
    """Counts like those of real data: most images hold a few classes."""
    rng = np.random.default_rng(3)
    return rng.poisson(40 * rng.dirichlet(np.full(classes, 0.2), size=images))


def test_group_numbers() -> None:
    assert group_numbers(["b", None, "a", "b", None, 3]).tolist() == [0, 1, 2, 0, 3, 4]
    assert group_numbers([]).tolist() == []
    assert len(set(group_numbers([1, None, ("x", 1), 0]))) == 4  # a key cannot meet the number of a lonely image


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.2,) * 5])
def test_stratified_sides_have_their_share_of_every_class(shares: tuple[float, ...]) -> None:
    counts = skewed(400)
    side = assign_sides(counts, np.arange(400), shares, stratify=True, rng=np.random.default_rng(0))
    for index, share in enumerate(shares):
        assert (side == index).mean() == pytest.approx(share, abs=0.01)
        assert counts[side == index].sum(axis=0) / counts.sum(axis=0) == pytest.approx(share, abs=0.015)
    # ... which drawing images alone does not give
    side = assign_sides(counts, np.arange(400), shares, stratify=False, rng=np.random.default_rng(0))
    assert (side == 0).mean() == pytest.approx(shares[0], abs=0.003)
    off = counts[side == 0].sum(axis=0) / counts.sum(axis=0) - shares[0]
    assert np.abs(off).max() > 0.03


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_is_on_both_sides_where_two_groups_have_it(seed: int) -> None:
    counts = np.zeros((30, 3), int)
    counts[:, 0] = 20
    counts[[4, 5], 1] = 1
    counts[8, 2] = 1
    side = assign_sides(counts, np.arange(30), (0.9, 0.1), stratify=True, rng=np.random.default_rng(seed))
    assert set(side[[4, 5]]) == {0, 1} and side[8] == 0
    assert (side == 1).sum() in (2, 3, 4)


def test_the_seed_matters() -> None:
    counts = skewed(60)
    for stratify in (True, False):
        sides = {
            assign_sides(
                counts, np.arange(60), (0.8, 0.2), stratify=stratify, rng=np.random.default_rng(seed)
            ).tobytes()
            for seed in range(5)
        }
        assert len(sides) == 5


def test_fewer_groups_than_sides() -> None:
    with pytest.raises(RamsesError, match="5 images in 1 groups cannot be divided into 2 sides"):
        assign_sides(np.ones((5, 1), int), np.zeros(5, int), (0.5, 0.5), stratify=True, rng=np.random.default_rng(0))


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.lists(st.integers(0, 12), min_size=40, max_size=40), st.integers(2, 4), st.booleans(), st.integers(0))
def test_groups_stay_whole_and_no_side_is_empty(
    counts: np.ndarray, keys: list[int], sides: int, stratify: bool, seed: int
) -> None:
    groups = group_numbers(keys[: len(counts)])
    shares = np.r_[np.full(sides - 1, 0.05), 1 - 0.05 * (sides - 1)]
    if groups.max() + 1 < sides:
        return
    side = assign_sides(counts, groups, shares, stratify=stratify, rng=np.random.default_rng(seed))
    assert sorted(set(side)) == list(range(sides))
    for group in set(groups):
        assert len(set(side[groups == group])) == 1
    again = assign_sides(counts, groups, shares, stratify=stratify, rng=np.random.default_rng(seed))
    assert side.tolist() == again.tolist()


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


@pytest.mark.parametrize(("max_reuse", "uses"), [(0, 1), (1, 1), (2, 2)])
def test_as_in_the_original_0_and_1_both_mean_once(max_reuse: int, uses: int) -> None:
    assert draw_capped(np.array([[1]]), np.array([100]), max_reuse=max_reuse) == [0] * uses
