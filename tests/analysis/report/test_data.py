"""Reading a run folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ramses_d2.analysis.report.build import ReportOptions, build_report
from ramses_d2.analysis.report.data import find_batches, read_run
from ramses_d2.errors import RamsesError
from tests.analysis.report.hand_made_run import make_run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no such file; give the --output folder"),
        ("label,class\n1,Rc\n", r"no column baseimg"),
        ("baseimg,label,class,mass\na.jpg,1,Rc,1.0\na.jpg,2,Rc,heavy\n", r"row 3: mass is 'heavy'"),
    ],
)
def test_broken_annotations(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "annotations.csv").write_text(content)
    with pytest.raises(RamsesError, match=message):
        read_run(tmp_path)


def test_text_columns_stay_text(tmp_path: Path) -> None:
    """pandas would read the class NA and the image 007 as something else."""
    (tmp_path / "annotations.csv").write_text(
        "baseimg,label,class,edge,mass\n007,1,NA,,nan\n007,2,None,left,2\nb,1,X,nan,\n"
    )
    table = read_run(tmp_path).table
    assert table["class"].tolist() == ["NA", "None", "X"] and table["baseimg"].tolist() == ["007", "007", "b"]
    assert table["edge"].tolist() == ["", "left", ""]
    assert table["mass"].isna().tolist() == [True, False, True] and table["mass"][1] == 2


def test_images_are_found_where_they_have_been_moved(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "data/images").rename(tmp_path / "elsewhere")
    assert not any(image.path for image in read_run(run).images)
    assert all(image.path for image in read_run(run, tmp_path / "elsewhere").images)
    with pytest.raises(RamsesError, match="no such folder of images"):
        read_run(run, tmp_path / "nowhere")


def test_further_columns_may_hold_text(tmp_path: Path) -> None:
    text = "baseimg,label,class,operator,moisture\na.jpg,1,Rc,Anna,3.5\na.jpg,2,Rc,,\n"
    (tmp_path / "annotations.csv").write_text(text)
    table = read_run(tmp_path).table
    assert table["operator"].tolist() == ["Anna", ""]
    assert table["moisture"][0] == 3.5 and np.isnan(table["moisture"][1])


def test_a_listed_resolution_that_is_none(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    images = [{"file_name": "belt_000.png", "res": 0}, {"file_name": "belt_001.png", "res": 2.5}]
    (tmp_path / "data/metadata.json").write_text(json.dumps({"images": images}))
    listed = [image.listed_resolution for image in read_run(run).images]
    assert np.isnan(listed[0]) and listed[1] == 2.5


def test_several_files_of_batches_are_not_guessed_from(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "data/images/belt_003.png").rename(tmp_path / "other/belt_003.png")
    record = json.loads((run / "run.json").read_text())
    record["pictures"][3]["path"] = str(tmp_path / "other/belt_003.png")
    (run / "run.json").write_text(json.dumps(record))
    for folder in ("data", "other"):
        (tmp_path / folder / "metadata.json").write_text('{"batches": []}')
    found = read_run(run)
    assert find_batches(found).several
    report = build_report(found, ReportOptions(), find_batches(found))
    assert report.no_comparison.startswith("several metadata.json lie beside the images")
