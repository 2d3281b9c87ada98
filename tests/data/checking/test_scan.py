"""annotations.csv with many errors: all are found, and what is right is read as ever."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ramses_d2.data.checking.scan import scan_annotations
from ramses_d2.data.folder import read_annotations
from ramses_d2.errors import RamsesError

HEADER = "label,baseimg,class,res,mass,gt_mass,x0"


def write(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "annotations.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def test_a_good_file_is_read_as_by_the_strict_reader(tmp_path: Path) -> None:
    path = write(tmp_path, "1,a,Rc,2.5,nan,False,3", "", " 2 ,a,NA,2.5,1e-1,True,")
    scan = scan_annotations(path)
    assert scan.problems == [] and scan.surplus == {}
    pd.testing.assert_frame_equal(scan.table.astype({"label": "int64"}), read_annotations(path))
    assert scan.text["label"].to_dict() == {2: "1", 4: "2"}


def test_all_errors_are_found_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "1,a,Rc,2.5,1,False,3",
        "x,a,Rc,0,-1,maybe,here",
        "2,a,Rc,2,5,1,True,3",
        "70000,,,,inf,,",
        "3,a,Rc,2.5,,,4",
    )
    scan = scan_annotations(path)
    assert [(problem.row, problem.column) for problem in scan.problems] == [
        (3, "label"),
        (3, "x0"),
        (3, "gt_mass"),
        (3, "res"),
        (3, "mass"),
        (4, None),
        (5, "baseimg"),
        (5, "class"),
        (5, "label"),
        (5, "res"),
        (5, "mass"),
    ]
    messages = {(problem.row, problem.column): problem.message for problem in scan.problems}
    assert messages[3, "label"] == "label is 'x'; write a number, with a decimal point"
    assert messages[5, "label"] == "label is 70000; a label is a whole number from 1 to 65535"
    assert messages[4, None].startswith("has 8 cells, the header has 7; numbers need a decimal point")
    assert scan.surplus == {4: ["2", "a", "Rc", "2", "5", "1", "True", "3"]}
    assert scan.table.index.tolist() == [2, 3, 5, 6]
    assert scan.table["label"].isna().tolist() == [False, True, True, False]
    assert scan.table.loc[3, ["res", "mass", "x0"]].isna().all() and not scan.table.loc[3, "gt_mass"]
    assert scan.table.loc[6, "x0"] == 4


def test_surplus_cells_in_every_row(tmp_path: Path) -> None:
    scan = scan_annotations(write(tmp_path, "1,a,Rc,2,5,0,1,True", "2,a,Rc,2,5,0,1,True"))
    assert list(scan.surplus) == [2, 3] and len(scan.table) == 0


def test_missing_columns(tmp_path: Path) -> None:
    scan = scan_annotations(write(tmp_path, "1,a", "0,a", header="label,baseimg"))
    assert [(problem.row, problem.column) for problem in scan.problems] == [
        (None, "class"),
        (None, "res"),
        (3, "label"),
    ]
    with pytest.raises(RamsesError, match="column label is missing"):
        scan_annotations(write(tmp_path, "a,Rc,2", header="baseimg,class,res"))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'label,baseimg\n1,"a\n', b"label;baseimg\n1;a\n"])
def test_no_table_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "annotations.csv"
    with pytest.raises(RamsesError, match="no such file"):
        scan_annotations(path)
    path.write_bytes(content)
    with pytest.raises(RamsesError):
        scan_annotations(path)
