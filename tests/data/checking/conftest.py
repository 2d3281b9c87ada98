"""A good synthetic data set, rendered once, and copies of it to damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ramses_d2.data.synthetic import write_dataset
from tests.data.checking.damages import CONFIG, DataSet


@pytest.fixture(scope="session")
def _good_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("good") / "data", CONFIG, {"train": 4, "valid": 2}, seed=3)


@pytest.fixture
def another(_good_set: Path, tmp_path: Path) -> Callable[[str], DataSet]:
    """Copies of the good set, by name."""
    return lambda name: DataSet(Path(shutil.copytree(_good_set, tmp_path / name)))


@pytest.fixture
def data(another: Callable[[str], DataSet]) -> DataSet:
    return another("data")
