"""Every kind of damage, one at a time in a good data set: exactly that is found, with its file and row."""

from __future__ import annotations

import pytest

from ramses_d2.data.checking.check import KINDS, check_folders, convention
from ramses_d2.data.folder import load_folder
from ramses_d2.data.splits import load_split
from tests.data.checking import (
    damages_of_files,  # noqa: F401  they register themselves
    damages_of_rows,  # noqa: F401  they register themselves
)
from tests.data.checking.data_set import DAMAGES, DataSet


def test_the_good_set_is_silent(data: DataSet) -> None:
    report = check_folders([data.folder])
    assert report.findings == [] and report.errors == 0
    assert convention(report.folders[0]) == "x0, x1 are rows, y0, y1 are columns"


def test_every_kind_has_its_damage() -> None:
    assert {kind for kind, _ in DAMAGES.values()} == set(KINDS)


@pytest.mark.parametrize("name", DAMAGES)
def test_exactly_the_damage_is_found(data: DataSet, name: str) -> None:
    kind, inflict = DAMAGES[name]
    expected = [(kind, *where) for where in inflict(data)]
    report = check_folders([data.folder])
    assert [(each.kind, each.file, each.row, each.label) for each in report.findings] == expected
    for each in report.findings:
        assert each.folder == str(data.folder) and str(data.folder / each.file) in str(each)
        assert each.message and "\n" not in str(each)
        assert each.image is None or each.image in str(each)
    if not report.errors:  # then training does not stop at the data either
        load_folder(data.folder)
        load_split(data.folder / "split.json", "train")
        load_split(data.folder / "split.json", "valid")
