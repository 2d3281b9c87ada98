"""Synthetic data sets on disk: separate images, and a belt cut into frames, in which nothing is lost or invented."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from ramses_d2.data.folder import load_folder
from ramses_d2.data.synthetic import Scene, SceneConfig, write_belt, write_dataset
from ramses_d2.data.synthetic.dataset import annotate
from ramses_d2.errors import RamsesError
from ramses_d2.files import read_json

CONFIG = SceneConfig(height=96, width=128, stones=(3, 8), diameter_mm=(6.0, 9.0))
BELT = SceneConfig(height=64, width=128, stones=(5, 7), resolution=(2.0, 2.0), diameter_mm=(6, 9))
COLUMNS = "label baseimg area x0 y0 x1 y1 feret radius class res mass gt_mass height width".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "demo", CONFIG, {"train": 3, "valid": 2}, seed=4, workers=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_labels(folder: Path, name: str) -> np.ndarray:
    return cv2.imread(str(folder / "labels" / f"{name}.png"), cv2.IMREAD_UNCHANGED)


def test_annotations_describe_the_label_images(folder: Path) -> None:
    table = pd.read_csv(folder / "annotations.csv")
    assert list(table.columns) == COLUMNS and table["gt_mass"].all() and (table["mass"] > 0).all()
    assert (table[["height", "width"]] == [96, 128]).all(axis=None)
    for name, stones in table.groupby("baseimg"):
        labels = read_labels(folder, name)
        assert labels.dtype == np.uint16 and labels.shape == (96, 128)
        assert cv2.imread(str(folder / "images" / f"{name}.jpg")).shape == (96, 128, 3)
        assert sorted(stones["label"]) == list(np.unique(labels)[1:])
        for stone in stones.itertuples():
            rows, columns = np.nonzero(labels == stone.label)
            box = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
            assert (stone.x0, stone.y0, stone.x1, stone.y1) == box and stone.area == len(rows)


def test_each_image_is_a_batch_with_its_masses_and_in_one_subset(folder: Path) -> None:
    table, metadata = pd.read_csv(folder / "annotations.csv"), read_json(folder / "metadata.json")
    names = [f"scene_{n:05d}" for n in range(1, 6)]
    for image, batch, name in zip(metadata["images"], metadata["batches"], names, strict=True):
        stones = table[table["baseimg"] == name]
        assert batch["image_names"] == [image["file_name"]] == [f"{name}.jpg"]
        assert batch["mass"] == pytest.approx(stones.groupby("class")["mass"].sum().to_dict(), rel=1e-4)
        assert image["res"] == pytest.approx(stones["res"].iloc[0], rel=1e-5)
    subsets = {"train": [f"demo/{name}" for name in names[:3]], "valid": [f"demo/{name}" for name in names[3:]]}
    split = {"format": "ramses-split", "version": 1, "folders": {"demo": "."}, "classes": list(CONFIG.classes)}
    assert read_json(folder / "split.json") == split | {"subsets": subsets}


def test_same_seed_same_bytes_whatever_the_workers_and_the_other_images(folder: Path, tmp_path: Path) -> None:
    again = write_dataset(tmp_path / "demo", CONFIG, {"train": 3, "valid": 2}, seed=4, workers=1)
    assert contents(again) == contents(folder)
    fewer = contents(write_dataset(tmp_path / "fewer", CONFIG, {"train": 2}, seed=4))
    other = contents(write_dataset(tmp_path / "other", CONFIG, {"train": 2}, seed=5))
    for name in ("images/scene_00002.jpg", "labels/scene_00002.png"):
        assert fewer[name] == contents(folder)[name] != other[name]


def test_measures_of_a_square() -> None:
    labels = np.zeros((20, 30), np.uint16)
    labels[2:7, 10:15] = 1
    scene = Scene(np.zeros((20, 30, 3), np.uint8), labels, ["Ra"], np.array([np.nan]), 2.0, *[np.zeros(1)] * 3)
    row = annotate(scene, "a").iloc[0]
    assert row["feret"] == pytest.approx(5 * np.sqrt(2)) and row["radius"] == pytest.approx(3)
    assert row[["x0", "y0", "x1", "y1"]].tolist() == [2, 10, 7, 15] and np.isnan(row["mass"]) and not row["gt_mass"]


def test_cut_stones_are_unweighed_and_make_their_batch_unknown(tmp_path: Path) -> None:
    config = SceneConfig(height=96, width=128, stones=(12, 20), border=True, classes=("Ra", "X"))
    folder = write_dataset(tmp_path / "cut", config, {"train": 1})
    table = pd.read_csv(folder / "annotations.csv")
    assert (table["mass"].notna() == table["gt_mass"]).all() and 0 < table["gt_mass"].sum() < len(table)
    (batch,) = read_json(folder / "metadata.json")["batches"]
    for name, stones in table.groupby("class"):
        assert np.isnan(batch["mass"][name]) == stones["mass"].isna().any()


def test_only_a_synthetic_data_set_is_replaced_and_only_with_force(
    tmp_path: Path, tiny_folder: Callable[..., Path]
) -> None:
    target = write_dataset(tmp_path / "demo", CONFIG, {"train": 1}, seed=1)
    (tmp_path / "file").write_text("")
    real = tiny_folder(name="real")  # it has an annotations.csv and a metadata.json too, but cannot be rendered again
    before = contents(tmp_path)
    for output, overwrite, words in (
        (target, False, "--force"),
        (real, True, "real"),
        (tmp_path / "file", True, "file"),
    ):
        with pytest.raises(RamsesError, match=words):
            write_dataset(output, CONFIG, {"train": 1}, seed=2, overwrite=overwrite)
    assert contents(tmp_path) == before
    write_dataset(target, CONFIG, {"train": 1}, seed=2, overwrite=True)
    assert contents(target).keys() < {name.removeprefix("demo/") for name in before}
    assert contents(target)["images/scene_00001.jpg"] != before["demo/images/scene_00001.jpg"]


CROWDED = SceneConfig(height=96, width=96, stones=(200, 200), diameter_mm=(8.0, 9.0))


@pytest.mark.parametrize(
    ("write", "config", "settings", "words"),
    [
        (write_dataset, CONFIG, {"counts": {"train": 0, "valid": 0}}, "counts"),
        (write_dataset, CONFIG, {"counts": {"train": -1, "valid": 4}}, "counts"),
        (write_dataset, CONFIG, {"counts": {"train": 1}, "workers": 0}, "workers 0"),
        (write_dataset, CONFIG, {"counts": {"train": 1}, "seed": -1}, "seed -1"),
        (write_dataset, CROWDED, {"counts": {"train": 1}}, "no room"),
        (write_belt, BELT, {"frames": 0}, "frames 0"),
        (write_belt, BELT, {"frames": 2, "overlap": 64}, "overlap 64"),
        (write_belt, BELT, {"frames": 2, "overlap": -1}, "overlap -1"),
        (write_belt, BELT, {"frames": 2, "seed": -1}, "seed -1"),
    ],
)
def test_a_failure_leaves_nothing(
    tmp_path: Path, write: Callable, config: SceneConfig, settings: dict, words: str
) -> None:
    with pytest.raises(RamsesError, match=words):
        write(tmp_path / "demo", config, **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("overlap", [0, 20])
def test_frames_put_together_are_the_belt(tmp_path: Path, overlap: int) -> None:
    folder = write_belt(tmp_path / "belt", BELT, frames=4, overlap=overlap)
    dataset_dicts, names = load_folder(folder)
    assert len(dataset_dicts) == 4 and names == list(BELT.classes)
    rows = pd.read_csv(folder / "annotations.csv")
    truth = pd.read_csv(folder / "belt.csv").set_index("belt_label")
    starts = [image["belt_row"] for image in read_json(folder / "metadata.json")["images"]]
    assert starts == [i * (64 - overlap) for i in range(4)]
    belt = np.zeros((starts[-1] + 64, 128), int)
    for start, (name, own) in zip(starts, rows.groupby("baseimg"), strict=True):
        on_belt = np.r_[0, own.sort_values("label")["belt_label"].to_numpy()][read_labels(folder, name)]
        if overlap and start:
            np.testing.assert_array_equal(belt[start : start + overlap], on_belt[:overlap])
        belt[start : start + 64] = on_belt
    assert np.bincount(belt.ravel())[1:].tolist() == truth["area"].tolist()
    of_row = truth.loc[rows["belt_label"]].reset_index()
    whole = rows["area"] == of_row["area"]
    assert rows["mass"].notna().tolist() == whole.tolist() and 0 < whole.sum() < len(rows)
    np.testing.assert_allclose(rows["mass"][whole], of_row["mass"][whole], rtol=1e-8)
    # One batch of all stones; frames that overlap show some of them twice, and are none
    batches = [] if overlap else [truth.groupby("class")["mass"].sum().to_dict()]
    found = read_json(folder / "metadata.json")["batches"]
    assert [each["mass"] for each in found] == [pytest.approx(each) for each in batches]
    assert all(len(each["image_names"]) == 4 for each in found)
