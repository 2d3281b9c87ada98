"""The synthetic data set on disk."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from ramses_d2.data.synthetic.dataset import annotate, write_dataset
from ramses_d2.data.synthetic.scene import Scene, SceneConfig
from ramses_d2.errors import RamsesError

CONFIG = SceneConfig(height=96, width=128, stones=(3, 8), diameter_mm=(6.0, 9.0))
COLUMNS = "label baseimg area x0 y0 x1 y1 feret radius class res mass gt_mass height width".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "demo", CONFIG, {"train": 3, "valid": 2}, seed=4, workers=2)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_annotations_describe_the_label_images(folder):
    table = pd.read_csv(folder / "annotations.csv")
    assert list(table.columns) == COLUMNS
    assert table["gt_mass"].all() and (table["mass"] > 0).all()
    for name, stones in table.groupby("baseimg"):
        labels = cv2.imread(str(folder / "labels" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        image = cv2.imread(str(folder / "images" / f"{name}.jpg"))
        assert labels.dtype == np.uint16 and labels.shape == (96, 128) and image.shape == (96, 128, 3)
        assert sorted(stones["label"]) == list(np.unique(labels)[1:])
        assert (stones[["height", "width"]] == [96, 128]).all(axis=None)
        for stone in stones.itertuples():
            rows, columns = np.nonzero(labels == stone.label)
            assert (stone.x0, stone.x1) == (rows.min(), rows.max() + 1)
            assert (stone.y0, stone.y1) == (columns.min(), columns.max() + 1)
            assert stone.area == len(rows)


def test_every_image_is_a_batch_with_its_grams(folder):
    table = pd.read_csv(folder / "annotations.csv")
    metadata = json.loads((folder / "metadata.json").read_text())
    assert [image["file_name"] for image in metadata["images"]] == [f"scene_{n:05d}.jpg" for n in range(1, 6)]
    for image, batch in zip(metadata["images"], metadata["batches"], strict=True):
        stones = table[table["baseimg"] + ".jpg" == image["file_name"]]
        assert batch["image_names"] == [image["file_name"]]
        assert batch["mass"] == pytest.approx(stones.groupby("class")["mass"].sum().to_dict(), rel=1e-4)
        assert image["res"] == pytest.approx(stones["res"].iloc[0], rel=1e-5)


def test_split_names_every_image_once(folder):
    split = json.loads((folder / "split.json").read_text())
    assert split["format"] == "ramses-split" and split["version"] == 1 and split["folders"] == {"demo": "."}
    assert split["classes"] == list(CONFIG.classes)
    assert split["subsets"] == {
        "train": ["demo/scene_00001", "demo/scene_00002", "demo/scene_00003"],
        "valid": ["demo/scene_00004", "demo/scene_00005"],
    }


def test_same_seed_same_bytes_whatever_the_workers(folder, tmp_path):
    again = write_dataset(tmp_path / "demo", CONFIG, {"train": 3, "valid": 2}, seed=4, workers=1)
    assert contents(again) == contents(folder)
    other = write_dataset(tmp_path / "other", CONFIG, {"train": 1}, seed=5)
    assert (other / "images/scene_00001.jpg").read_bytes() != (folder / "images/scene_00001.jpg").read_bytes()


def test_a_image_does_not_depend_on_the_others(folder, tmp_path):
    fewer = contents(write_dataset(tmp_path / "demo", CONFIG, {"train": 2}, seed=4))
    for name in ("images/scene_00002.jpg", "labels/scene_00002.png"):
        assert fewer[name] == contents(folder)[name]


def test_measures_of_a_square():
    labels = np.zeros((20, 30), np.uint16)
    labels[2:7, 10:15] = 1
    scene = Scene(np.zeros((20, 30, 3), np.uint8), labels, ["Ra"], np.array([np.nan]), 2.0, *[np.zeros(1)] * 3)
    row = annotate(scene, "a").iloc[0]
    assert row["feret"] == pytest.approx(5 * np.sqrt(2)) and row["radius"] == pytest.approx(3)
    assert (row["x0"], row["y0"], row["x1"], row["y1"]) == (2, 10, 7, 15)
    assert np.isnan(row["mass"]) and not row["gt_mass"]


def test_cut_stones_are_unweighed_and_make_their_batch_unknown(tmp_path):
    config = SceneConfig(height=96, width=128, stones=(12, 20), border=True, classes=("Ra", "X"))
    folder = write_dataset(tmp_path / "cut", config, {"train": 1})
    table = pd.read_csv(folder / "annotations.csv")
    assert (table["mass"].notna() == table["gt_mass"]).all() and 0 < table["gt_mass"].sum() < len(table)
    mass = json.loads((folder / "metadata.json").read_text())["batches"][0]["mass"]
    for name, stones in table.groupby("class"):
        assert np.isnan(mass[name]) == stones["mass"].isna().any()


def test_an_existing_folder_is_kept_unless_told(folder, tmp_path):
    target = write_dataset(tmp_path / "demo", CONFIG, {"train": 1}, seed=1)
    before = contents(target)
    with pytest.raises(RamsesError, match="already exists.*--force"):
        write_dataset(target, CONFIG, {"train": 1}, seed=2)
    assert contents(target) == before
    write_dataset(target, CONFIG, {"train": 1}, seed=2, overwrite=True)
    assert contents(target) != before
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_folder_that_is_no_data_set_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(RamsesError, match="no synthetic data set"):
        write_dataset(tmp_path / "thesis", CONFIG, {"train": 1}, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(RamsesError, match="is a file"):
        write_dataset(tmp_path / "file", CONFIG, {"train": 1}, overwrite=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"counts": {"train": 0, "valid": 0}}, "at least one picture"),
        ({"counts": {"train": -1, "valid": 4}}, "negative"),
        ({"counts": {"train": 1}, "workers": 0}, "workers 0"),
        ({"counts": {"train": 1}, "seed": -1}, "seed -1"),
    ],
)
def test_wrong_counts_are_named(tmp_path, arguments, words):
    with pytest.raises(RamsesError, match=words):
        write_dataset(tmp_path / "demo", CONFIG, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_behind(tmp_path):
    crowded = SceneConfig(height=96, width=96, stones=(200, 200), diameter_mm=(8.0, 9.0))
    with pytest.raises(RamsesError, match="no room"):
        write_dataset(tmp_path / "demo", crowded, {"train": 1})
    assert not list(tmp_path.iterdir())


def test_what_others_put_into_it_is_never_thrown_away(tmp_path: Path) -> None:
    target = write_dataset(tmp_path / "demo", CONFIG, {"train": 1})
    for name, what in (("images/mine.jpg", "added"), ("notes.txt", "added"), ("labels/scene_00001.png", "changed")):
        before = (target / name).read_bytes() if (target / name).exists() else None
        (target / name).write_bytes(b"by hand")
        with pytest.raises(RamsesError, match=f"{name} was {what} after the rendering: refusing to replace"):
            write_dataset(target, CONFIG, {"train": 1}, overwrite=True)
        assert (target / name).read_bytes() == b"by hand"
        (target / name).unlink() if before is None else (target / name).write_bytes(before)
    write_dataset(target, CONFIG, {"train": 1}, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_weighed_data_set_is_never_replaced(tiny_folder: Callable[..., Path]) -> None:
    """It has an annotations.csv and a metadata.json too, but nobody can render it again."""
    real = tiny_folder()
    before = sorted(path.name for path in (real / "images").iterdir())
    with pytest.raises(RamsesError, match="no synthetic data set"):
        write_dataset(real, CONFIG, {"train": 1}, overwrite=True)
    assert sorted(path.name for path in (real / "images").iterdir()) == before
