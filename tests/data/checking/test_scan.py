"""annotations.csv with many errors: all are found, and what is right is read as ever."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ramses_d2.data.checking.contents import Folder
from ramses_d2.data.folder import read_annotations

HEADER = "label,baseimg,class,res,mass,gt_mass,x0"


def read(folder: Path, *rows: str, header: str = HEADER) -> Folder:
    (folder / "annotations.csv").write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return Folder(folder)


def test_a_good_file_is_read_as_by_the_strict_reader(tmp_path: Path) -> None:
    folder = read(tmp_path, "1,a,Rc,2.5,nan,False,3", "", " 2 ,a,NA,2.5,1e-1,True,")
    assert folder.found == [] and folder.surplus == {}
    pd.testing.assert_frame_equal(folder.rows, read_annotations(tmp_path / "annotations.csv"), check_dtype=False)
    assert folder.text["label"].to_dict() == {2: "1", 4: "2"}


def test_all_errors_are_found_at_once(tmp_path: Path) -> None:
    rows = ("1,a,Rc,2.5,1,False,3", "x,a,Rc,0,-1,maybe,here", "2,a,Rc,2,5,1,True,3", "70000,,,,inf,,", "3,a,Rc,2.5,,,4")
    folder = read(tmp_path, *rows, "4,a,Rc,2.5,,x,4")
    assert [(each.row, each.kind, each.message.split(" ")[0]) for each in folder.found] == [
        (3, "bad-value", "label"),
        (3, "bad-value", "x0"),
        (3, "bad-value", "gt_mass"),
        (3, "bad-resolution", "res"),
        (3, "bad-mass", "mass"),
        (4, "bad-row", "has"),
        (5, "bad-value", "baseimg"),
        (5, "bad-value", "class"),
        (5, "bad-value", "label"),
        (5, "bad-resolution", "res"),
        (5, "bad-mass", "mass"),
        (7, "bad-value", "gt_mass"),
    ]
    messages = [each.message for each in folder.found]
    assert messages[0] == "label is 'x'; write a number, with a decimal point"
    assert messages[8] == "label is 70000; a label is a whole number from 1 to 65535"
    assert messages[5].startswith("has 8 cells, the header has 7")
    assert folder.surplus == {4: ["2", "a", "Rc", "2", "5", "1", "True", "3"]}
    assert folder.text.index.tolist() == [2, 3, 5, 6, 7] and folder.unusable == {"a": 1, "": 2}
    assert folder.rows.index.tolist() == [2, 6, 7] and not folder.rows.loc[7, "gt_mass"]
    assert folder.rows.loc[6, ["label", "x0"]].tolist() == [3, 4]


def test_surplus_cells_in_every_row(tmp_path: Path) -> None:
    folder = read(tmp_path, "1,a,Rc,2,5,0,1,True", "2,a,Rc,2,5,0,1,True")
    assert list(folder.surplus) == [2, 3] and len(folder.rows) == 0


def test_missing_columns(tmp_path: Path) -> None:
    found = read(tmp_path, "1,a", "0,a", header="label,baseimg").found
    assert [(each.row, each.message.split(" ")[1]) for each in found] == [(None, "class"), (None, "res"), (3, "is")]
    (finding,) = read(tmp_path, "a,Rc,2", header="baseimg,class,res").found
    assert finding.kind == "csv-unreadable" and "column label" in finding.message


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'label,baseimg\n1,"a\n', b"label;baseimg\n1;a\n"])
def test_no_table_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "annotations.csv").write_bytes(content)
    folder = Folder(tmp_path)
    assert [each.kind for each in folder.found] == ["csv-unreadable"]
    assert folder.text is None and folder.rows.empty
