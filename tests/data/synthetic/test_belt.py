"""A belt cut into frames: nothing is lost, nothing invented."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ramses_d2.data.folder import load_folder
from ramses_d2.data.synthetic.dataset import write_belt
from ramses_d2.data.synthetic.scene import SceneConfig
from ramses_d2.errors import RamsesError

CONFIG = SceneConfig(height=64, width=128, stones=(5, 7), resolution=(2.0, 2.0), diameter_mm=(6, 9))


def read(folder: Path, name: str) -> np.ndarray:
    return np.array(Image.open(folder / "labels" / f"{name}.png"))


@pytest.mark.parametrize("overlap", [0, 20])
def test_frames_put_together_are_the_belt(tmp_path: Path, overlap: int) -> None:
    folder = write_belt(tmp_path / "belt", CONFIG, frames=4, overlap=overlap)
    rows = pd.read_csv(folder / "annotations.csv")
    truth = pd.read_csv(folder / "belt.csv").set_index("belt_label")
    starts = [image["belt_row"] for image in json.loads((folder / "metadata.json").read_text())["images"]]
    assert starts == [i * (64 - overlap) for i in range(4)]
    belt = np.zeros((starts[-1] + 64, 128), int)
    for start, (name, own) in zip(starts, rows.groupby("baseimg"), strict=True):
        on_belt = np.r_[0, own.sort_values("label")["belt_label"].to_numpy()][read(folder, str(name))]
        if overlap and start:
            np.testing.assert_array_equal(belt[start : start + overlap], on_belt[:overlap])
        belt[start : start + 64] = on_belt
    assert np.bincount(belt.ravel())[1:].tolist() == truth["area"].tolist()
    whole = rows["area"].to_numpy() == truth["area"].loc[rows["belt_label"]].to_numpy()
    assert rows["mass"].notna().tolist() == whole.tolist() and 0 < whole.sum() < len(rows)
    np.testing.assert_allclose(rows["mass"][whole], truth["mass"].loc[rows["belt_label"][whole]], rtol=1e-8)


def test_the_batch_is_the_mass_of_all_stones(tmp_path: Path) -> None:
    folder = write_belt(tmp_path / "belt", CONFIG, frames=3)
    truth = pd.read_csv(folder / "belt.csv")
    (batch,) = json.loads((folder / "metadata.json").read_text())["batches"]
    assert len(batch["image_names"]) == 3
    assert batch["mass"] == pytest.approx(truth.groupby("class")["mass"].sum().to_dict())


def test_the_folder_loads(tmp_path: Path) -> None:
    dataset_dicts, names = load_folder(write_belt(tmp_path / "belt", CONFIG, frames=2))
    assert len(dataset_dicts) == 2 and names == list(CONFIG.classes)


@pytest.mark.parametrize(("frames", "overlap"), [(0, 0), (2, 64), (2, -1)])
def test_impossible_belts_leave_nothing(tmp_path: Path, frames: int, overlap: int) -> None:
    with pytest.raises(RamsesError, match="frames"):
        write_belt(tmp_path / "belt", CONFIG, frames=frames, overlap=overlap)
    assert not list(tmp_path.iterdir())


def test_a_negative_seed(tmp_path: Path) -> None:
    with pytest.raises(RamsesError, match="seed -1: give 0 or more"):
        write_belt(tmp_path / "belt", CONFIG, frames=2, seed=-1)
    assert not list(tmp_path.iterdir())
