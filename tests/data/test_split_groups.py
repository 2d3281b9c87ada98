"""What images can be grouped by."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ramses_d2.data.splits import group_keys, has_batches
from ramses_d2.errors import RamsesError


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
    return pd.DataFrame(places, columns=["picture", "folder", "base"]).set_index("picture")


@pytest.fixture
def rows(images: pd.DataFrame) -> pd.DataFrame:
    """Two rows per image but the last, which has none."""
    names = [name for name in images.index[:-1] for _ in range(2)]
    lanes = ["left", "left", "right", None, "", None, "left", "left", 7, 7]
    return pd.DataFrame({"picture": names, "lane": lanes, "mixed": range(len(names))})


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
    with pytest.raises(RamsesError, match=r"picture a/belt_1 has several values \(0, 1\)"):
        group_keys("mixed", images, rows)


def test_by_field_of_the_metadata(images: pd.DataFrame, rows: pd.DataFrame) -> None:
    assert group_keys("tag", images, rows) == ["wet", None, None, None, None, None]
    with pytest.raises(RamsesError, match="group by colour: neither a column"):
        group_keys("colour", images, rows)


def test_metadata_that_is_none(images: pd.DataFrame, rows: pd.DataFrame) -> None:
    (Path(images["folder"].iloc[0]) / "metadata.json").write_text("[]")
    with pytest.raises(RamsesError, match="metadata.json: not a metadata.json"):
        group_keys("batch", images, rows)
