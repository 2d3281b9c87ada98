"""Split files of both formats: read back, refused, replaced only when asked, equal to the published ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from ramses_d2.data.dataset_manager import DatasetManager
from ramses_d2.data.splits import load_split
from ramses_d2.errors import RamsesError

Folder = Callable[..., Path]
ORIGINAL_SPLITS = Path(__file__).parents[2] / "../shared/data/ramses2-splits"
SIZE = (48, 72)


@pytest.fixture
def folder(tiny_folder: Folder) -> Path:
    """Twelve images of 1 ... 9 particles of three classes."""
    return tiny_folder(sizes=(SIZE,) * 12, count=[1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 3, 3])


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
    dataset_dicts, class_names = load_split(path, "valid")
    assert [dataset_dict["image_name"] for dataset_dict in dataset_dicts] == manager.valid_basenames
    assert class_names == ["brick", "concrete", "glass"]

    split |= {"comment": "ours", "subsets": split["subsets"] | {"test": ["first/img0"]}}
    path.write_text(json.dumps(split))
    again = DatasetManager.from_file(path)
    assert (again.train_basenames, again.seed, again.mininst) == (manager.train_basenames, 3, 2)
    assert again.train_class_counts == manager.train_class_counts
    assert again.other_subsets == {"test": ["first/img0"]}
    assert json.loads(again.save(tmp_path / "splits/again.json").read_text()) == split


def test_a_split_file_by_hand(two_folders: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    split = {
        "format": "ramses-split",
        "version": 1,
        "folders": {"x": "first", "y": "second"},
        "classes": ["glass", "concrete", "brick"],
        "subsets": {"train": ["x/img0", "y/img0"], "valid": ["y/img1"]},
    }
    path.write_text(json.dumps(split))
    manager = DatasetManager.from_file(path)
    assert manager.train_class_counts == {"brick": 4, "concrete": 3, "glass": 3}
    assert manager.cls_to_idx == {"glass": 1, "concrete": 2, "brick": 3}
    manager.create_set(100, "train", max_reuse=1)
    assert len(manager.train_basenames) == 11 and "y/img1" not in manager.train_basenames
    path.write_text(json.dumps(split | {"folders": {"x": "first", "y": "./first"}}))
    with pytest.raises(RamsesError, match="two keys of folders are the same folder"):
        DatasetManager.from_file(path)
    path.write_text(json.dumps(split | {"settings": []}))
    with pytest.raises(RamsesError, match="'settings' is of a wrong type"):
        DatasetManager.from_file(path)
    with pytest.raises(RamsesError, match="needs no CSV"):
        DatasetManager.from_file(path, tmp_path / "x.csv")
    path.write_text(json.dumps(split | {"subsets": {"train": "x/img0"}}))
    with pytest.raises(RamsesError, match="train is no list"):
        DatasetManager.from_file(path)


def test_the_originals_format_there_and_back(folder: Path) -> None:
    manager = DatasetManager.from_folders([folder], input_shape=(64, 96), seed=4, minres=1, maxinst=8)
    manager.create_sets(12, 3, max_reuse=2)
    path = manager.save(folder / "SPLIT.v1", "20250101-000000", format="ramses2")
    assert path.name == "SPLIT.v1.json"
    split = json.loads(path.read_text())
    assert list(split) == [
        "dataset_id", "exclude", "ratio", "crop_to_ar", "mask_stride", "minres", "input_shape", "cls_to_idx", "mininst",
        "maxinst", "seed", "train_class_counts", "valid_class_counts", "train", "valid",
    ]  # fmt: skip
    assert (split["dataset_id"], split["ratio"], split["crop_to_ar"]) == ("20250101-000000", 64 / 96, True)
    assert split["train"] == [name.removeprefix("demo/") for name in manager.train_basenames]
    table = pd.read_csv(folder / "SPLIT.v1.csv")
    assert table["folder"].unique().tolist() == [str(folder.resolve())] and table["x0"].dtype == int
    assert table.groupby("baseimg")["VALID"].all().to_dict()["img8"] is False
    assert [dataset_dict["image_name"] for dataset_dict in load_split(path, "train")[0]] == manager.train_basenames

    text, csv_text = path.read_text(), (folder / "SPLIT.v1.csv").read_text()
    for paths in ([path], [folder / "SPLIT.v1.csv", path], [path, folder / "SPLIT.v1.csv"]):
        again = DatasetManager.from_file(*paths)
        assert again.save(folder / "again", format="ramses2", force=True).read_text() == text
        assert (folder / "again.csv").read_text() == csv_text
    with pytest.raises(RamsesError, match="gone.csv: no such file"):
        DatasetManager.from_file(path, folder / "gone.csv")
    assert again.images.loc["img8", "reason"] == "VALID is not True"
    ours = json.loads(again.save(folder / "ours.json").read_text())
    assert ours["subsets"]["train"] == manager.train_basenames and ours["folders"] == {"demo": "."}
    again.create_sets(12, 3, max_reuse=2)
    assert again.dataset_id is None and again.train_basenames == split["train"]


def test_the_originals_csv_from_another_computer(folder: Path) -> None:
    manager = DatasetManager.from_folders([folder])
    manager.create_split()
    path = manager.save(folder.parent / "SPLIT", format="ramses2")
    text = path.with_suffix(".csv").read_text().replace(str(folder.resolve()), "D:\\data\\demo")
    path.with_suffix(".csv").write_text(text)
    again = DatasetManager.from_file(path)
    ours = json.loads(again.save(folder.parent / "ours.json").read_text())
    assert ours["folders"] == {"demo": "demo"} and ours["subsets"]["valid"] == manager.valid_basenames
    again.save(folder.parent / "SPLIT2", format="ramses2")
    assert (folder.parent / "SPLIT2.csv").read_text() == text


def test_the_originals_format_cannot_tell_equal_base_names_apart(two_folders: list[Path], tmp_path: Path) -> None:
    manager = DatasetManager.from_folders(two_folders)
    manager.create_split()
    with pytest.raises(RamsesError, match="another folder has one of the same base name"):
        manager.save(tmp_path / "SPLIT", format="ramses2")
    assert not list(tmp_path.glob("SPLIT*"))
    # ... and where the original wrote such a split, its images of one name stay together
    table = pd.concat([pd.read_csv(each / "annotations.csv").assign(folder=str(each)) for each in two_folders])
    table.assign(VALID=True).to_csv(tmp_path / "OLD.csv", index=False)
    ids = {"brick": 1, "concrete": 2, "glass": 3}
    (tmp_path / "OLD.json").write_text(json.dumps({"cls_to_idx": ids, "train": ["img0", "img0"], "valid": ["img1"]}))
    manager = DatasetManager.from_file(tmp_path / "OLD.json")
    assert sum(manager.train_class_counts.values()) == 20
    assert json.loads(manager.save(tmp_path / "ours").read_text())["subsets"]["valid"] == ["first/img1", "second/img1"]
    manager.create_split(0.5)
    assert not set(manager.train_basenames) & set(manager.valid_basenames)


def test_files_are_replaced_only_when_asked_and_only_splits(folder: Path) -> None:
    manager = DatasetManager.from_folders([folder])
    manager.create_split()
    path = manager.save(folder / "split.json")
    before = path.read_text()
    with pytest.raises(RamsesError, match="split.json exists.*--force"):
        manager.save(path)
    manager.create_split(seed=1)
    manager.save(path, force=True)
    assert path.read_text() != before
    with pytest.raises(RamsesError, match="metadata.json: not a split file"):
        manager.save(folder / "metadata.json", force=True)
    with pytest.raises(RamsesError, match="annotations.csv exists and belongs to no split"):
        manager.save(folder / "annotations.json", format="ramses2", force=True)
    with pytest.raises(RamsesError, match="existing folder"):
        manager.save(folder / "no/split.json")
    with pytest.raises(RamsesError, match="split format 'xml'"):
        manager.save(folder / "s", format="xml")
    assert sorted(p.name for p in folder.iterdir()) == [
        "annotations.csv", "images", "labels", "metadata.json", "split.json",
    ]  # fmt: skip


@pytest.mark.parametrize("paths", [[], ["a.csv"], ["a.json", "b.json"]])
def test_paths_that_are_no_split(paths: list[str]) -> None:
    with pytest.raises(RamsesError, match="give a split's JSON"):
        DatasetManager.from_file(*paths)


COUNTS = {
    "15CLS_20250723-173206": (3472, 2194, {1: 916, 2: 1278}, 145012, 4998, 20749, 500),
    "15CLS_20250723-173206_MASS_ONLY": (2897, 1750, {1: 603, 2: 1147}, 120820, 5000, 19749, 502),
}


@pytest.mark.skipif(not ORIGINAL_SPLITS.is_dir(), reason="the published RAMSES2 splits are not at hand")
@pytest.mark.parametrize("name", list(COUNTS))
def test_published_splits(name: str, tmp_path: Path) -> None:
    """The counts of reference section 6.4; their CSVs were never published."""
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
    saved = manager.save(tmp_path / name, format="ramses2")
    assert json.loads(saved.read_text()) == json.loads(path.read_text())
    assert list(tmp_path.iterdir()) == [saved]
    for impossible in (lambda: manager.save(tmp_path / "ours.json"), manager.create_set, manager.create_split):
        with pytest.raises(RamsesError, match="CSV"):
            impossible()
