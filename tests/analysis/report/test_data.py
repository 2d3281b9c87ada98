"""Reading a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramses_d2.analysis.report.data import read_run
from ramses_d2.errors import RamsesError

from .hand_made_run import make_run


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
    """pandas would read the class NA and the picture 007 as something else."""
    (tmp_path / "annotations.csv").write_text(
        "baseimg,label,class,edge,mass\n007,1,NA,,nan\n007,2,None,left,2\nb,1,X,nan,\n"
    )
    table = read_run(tmp_path).table
    assert table["class"].tolist() == ["NA", "None", "X"] and table["baseimg"].tolist() == ["007", "007", "b"]
    assert table["edge"].tolist() == ["", "left", ""]
    assert table["mass"].isna().tolist() == [True, False, True] and table["mass"][1] == 2


def test_pictures_are_found_where_they_have_been_moved(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "data/images").rename(tmp_path / "elsewhere")
    assert not any(picture.path for picture in read_run(run).pictures)
    assert all(picture.path for picture in read_run(run, tmp_path / "elsewhere").pictures)
    with pytest.raises(RamsesError, match="no such folder of pictures"):
        read_run(run, tmp_path / "nowhere")
