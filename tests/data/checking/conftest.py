"""A good synthetic data set, rendered once, and copies of it to damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ramses_d2.data.synthetic import write_dataset
from tests.data.checking.data_set import CONFIG, DataSet


@pytest.fixture(scope="session")
def _good_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "data"
    return write_dataset(folder, CONFIG, {"train": 4, "valid": 2}, seed=3)


@pytest.fixture
def data(_good_set: Path, tmp_path: Path) -> DataSet:
    """A copy of the good set."""
    return DataSet(Path(shutil.copytree(_good_set, tmp_path / "data")))


@pytest.fixture
def another(_good_set: Path, tmp_path: Path) -> Callable[[str], DataSet]:
    """Further copies, by name."""
    return lambda name: DataSet(Path(shutil.copytree(_good_set, tmp_path / name)))
