"""annotations.csv: types, unknown values, and one clear line with the row for everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ramses_d2.data.folder import read_annotations, reject_duplicates
from ramses_d2.errors import RamsesError

HEADER = "label,baseimg,class,res,mass,gt_mass"


def write(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "annotations.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def test_types_and_unknown_masses(tmp_path: Path) -> None:
    rows = ["1,007,NA,2.5,nan,False", "2.0,007,Rc,2.5,NaN,", "3,007,Rc,2.5,,0", "4, a b ,Rc,2.5,1e-1,True"]
    table = read_annotations(write(tmp_path, *rows))
    assert table["label"].tolist() == [1, 2, 3, 4]
    assert table["baseimg"].tolist() == ["007", "007", "007", "a b"]  # text, not the number 7
    assert table["class"].tolist() == ["NA", "Rc", "Rc", "Rc"]  # a class name, not a missing value
    assert np.isnan(table["mass"][:3]).all() and table["mass"].iloc[3] == 0.1
    assert table["gt_mass"].tolist() == [False, False, False, True]
    assert table.index.tolist() == [2, 3, 4, 5]
    assert np.isnan(table["area"]).all()


def test_optional_columns(tmp_path: Path) -> None:
    table = read_annotations(write(tmp_path, "1,a,Rc,2", header="label,baseimg,class,res"))
    assert np.isnan(table["mass"].iloc[0]) and not table["gt_mass"].iloc[0]
    assert "x0" not in table.columns and "height" not in table.columns


def test_header_alone_and_byte_order_mark(tmp_path: Path) -> None:
    assert len(read_annotations(write(tmp_path))) == 0
    assert len(read_annotations(write(tmp_path, "1,a,Rc,2,,", header="\ufeff" + HEADER))) == 1


def test_blank_lines_do_not_shift_row_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, "1,a,Rc,2,,", "", "0,a,Rc,2,,", "")
    with pytest.raises(RamsesError, match="row 4: label is"):
        read_annotations(path)


@pytest.mark.parametrize("second", ["mass", " mass", "mass "])
def test_a_column_that_is_there_twice(tmp_path: Path, second: str) -> None:
    with pytest.raises(RamsesError, match=r"annotations.csv: column mass is there twice; remove or rename one"):
        read_annotations(write(tmp_path, "1,a,Rc,2,1,True,3", header=f"{HEADER},{second}"))
    assert len(read_annotations(write(tmp_path, "1,a,Rc,2,1,True,3,4", header=f"{HEADER},mass.1,")))


@pytest.mark.parametrize("size", ["inf,4", "4,inf", "0,4", "4,-3"])
def test_impossible_sizes(tmp_path: Path, size: str) -> None:
    with pytest.raises(RamsesError, match="row 3: (height|width) is .*; the size of the image is in px, 1 or more"):
        read_annotations(
            write(tmp_path, "1,a,Rc,2,4,5", f"2,a,Rc,2,{size}", header="label,baseimg,class,res,height,width")
        )


@pytest.mark.parametrize("column", ["label", "baseimg", "class", "res"])
def test_missing_column(tmp_path: Path, column: str) -> None:
    header = HEADER.replace(column, "other", 1)
    with pytest.raises(RamsesError, match=rf"annotations.csv: column {column} is missing"):
        read_annotations(write(tmp_path, "1,a,Rc,2,,", header=header))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,a,Rc,2,,", "label is .*whole number from 1"),
        ("-1,a,Rc,2,,", "label is"),
        ("1.5,a,Rc,2,,", "label is"),
        ("70000,a,Rc,2,,", "label is"),
        (",a,Rc,2,,", "label is"),
        ("x,a,Rc,2,,", "label is 'x'; write a number"),
        ("1,,Rc,2,,", "baseimg is ''"),
        ("1,a,,2,,", "class is ''"),
        ("1,a,Rc,,,", "res is nan; the resolution is px per mm"),
        ("1,a,Rc,NaN,,", "res is"),
        ("1,a,Rc,0,,", "res is"),
        ("1,a,Rc,-2,,", "res is"),
        ("1,a,Rc,inf,,", "res is"),
        ("1,a,Rc,2,0,", "mass is 0; a mass is in grams"),
        ("1,a,Rc,2,-1,", "mass is"),
        ("1,a,Rc,2,inf,", "mass is"),
        ("1,a,Rc,2,heavy,", "mass is 'heavy'; write a number"),
        ("1,a,Rc,2,1,maybe", "gt_mass is 'maybe'; write True or False"),
    ],
)
def test_wrong_values_name_their_row(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(RamsesError, match=f"annotations.csv, row 3: {message}") as caught:
        read_annotations(write(tmp_path, "9,a,Rc,2,1.5,True", row))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(RamsesError, match="no such file"):
        read_annotations(tmp_path / "annotations.csv")
    path = tmp_path / "annotations.csv"
    for content, message in (
        (b"", "empty"),
        (b"a,b\n1,2,3\n1,2,3,4,5\n", "row|table"),
        (b"\xff\xfe\x00", "UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(RamsesError, match=message):
            read_annotations(path)


def test_duplicates(tmp_path: Path) -> None:
    path = write(tmp_path, "1,a,Rc,2,,", "1,b,Rc,2,,", "1,a,Rc,2,,")
    with pytest.raises(RamsesError, match="row 4: label 1 of image a appears a second time"):
        reject_duplicates(read_annotations(path), path)


def test_semicolons_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "1;a;Rc;2,5;0,1;True", header=HEADER.replace(",", ";"))
    with pytest.raises(RamsesError, match="semicolons"):
        read_annotations(path)


def test_decimal_commas_are_named(tmp_path: Path) -> None:
    with pytest.raises(RamsesError, match="more cells than the header"):
        read_annotations(write(tmp_path, "1,a,Rc,2,5,0,1,True"))
