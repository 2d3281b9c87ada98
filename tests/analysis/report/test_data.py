"""Reading a run folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ramses_d2.analysis.report.data import find_batches, read_run
from ramses_d2.errors import RamsesError
from tests.analysis.report.hand_made import make_run

HEAD = "baseimg,label,class,mass\n"


@pytest.mark.parametrize(
    ("files", "images", "named"),
    [
        ({}, None, "annotations.csv: no such file"),
        ({"annotations.csv": "label,class\n1,Rc\n"}, None, "annotations.csv: no column baseimg"),
        ({"annotations.csv": f"{HEAD}a.jpg,1,Rc,1.0\na.jpg,2,Rc,heavy\n"}, None, "row 3: mass is 'heavy'"),
        ({"annotations.csv": HEAD, "run.json": "[]"}, None, "run.json"),
        ({"annotations.csv": HEAD}, "nowhere", "nowhere"),
        ({"images/a.jpg": ""}, None, "is a data set, not a run"),
    ],
)
def test_faults(tmp_path: Path, files: dict[str, str], images: str | None, named: str) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(RamsesError, match=named):
        read_run(tmp_path, images)


def test_text_stays_text_and_numbers_are_numbers(tmp_path: Path) -> None:
    """pandas would read the class NA and the image 007 as something else."""
    (tmp_path / "annotations.csv").write_text(
        "baseimg,label,class,edge,mass,operator,moisture\n"
        "007,1,NA,,nan,Anna,3.5\n007,2,None,left,2,,\nb,1,X,nan,,Bo,nan\n"
    )
    table = read_run(tmp_path).table
    assert table["class"].tolist() == ["NA", "None", "X"] and table["baseimg"].tolist() == ["007", "007", "b"]
    assert table["edge"].tolist() == ["", "left", ""] and table["operator"].tolist() == ["Anna", "", "Bo"]
    np.testing.assert_equal(table["mass"].tolist(), [np.nan, 2, np.nan])
    np.testing.assert_equal(table["moisture"].tolist(), [3.5, np.nan, np.nan])
    assert table[["res", "area", "score"]].isna().all(axis=None) and table.index.tolist() == [0, 1, 2]


def test_images_are_found_where_they_have_been_moved(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "data/images").rename(tmp_path / "elsewhere")
    assert not any(image.path for image in read_run(run).images)
    assert all(image.path for image in read_run(run, tmp_path / "elsewhere").images)


def test_images_that_only_files_tell_of(tmp_path: Path) -> None:
    images = read_run(make_run(tmp_path, run_json=False)).images
    assert [image.file_name for image in images] == [f"belt_{i:03d}.png" for i in range(3)] + ["belt_003"]
    assert [image.name for image in images] == [f"belt_{i:03d}" for i in range(4)]
    np.testing.assert_equal([image.resolution for image in images], [2, 2, 2, np.nan])


def test_metadata_beside_the_images(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    listed = [{"file_name": f"belt_00{i}.png", "res": res} for i, res in enumerate((0, 2.5, "x"))]
    (tmp_path / "data/metadata.json").write_text(
        json.dumps({"images": [*listed, {"file_name": "c", "camera": "line"}]})
    )
    found = [image.listed_resolution for image in read_run(run).images]
    np.testing.assert_equal(found, [np.nan, 2.5, np.nan, np.nan])
    assert find_batches(read_run(run)).source == tmp_path / "data/metadata.json"
    assert find_batches(read_run(run)).batches == []


def test_several_files_of_batches_are_not_guessed_from(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "data/images/belt_003.png").rename(tmp_path / "other/belt_003.png")
    record = json.loads((run / "run.json").read_text())
    record["pictures"][3]["path"] = str(tmp_path / "other/belt_003.png")
    (run / "run.json").write_text(json.dumps(record))
    for folder in ("data", "other"):
        (tmp_path / folder / "metadata.json").write_text('{"batches": []}')
    assert find_batches(read_run(run)).several
    with pytest.raises(RamsesError, match="no batches"):
        find_batches(read_run(run), tmp_path / "other")
