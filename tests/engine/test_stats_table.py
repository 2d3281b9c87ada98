"""The table of a training: appended, resumed, cut off by a kill, and with columns that come later."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ramses_d2.engine.curves import StatsTable


def rows(path: Path) -> list[dict]:
    return pd.read_csv(path, sep="\t").to_dict("records")


@pytest.fixture
def table(tmp_path: Path) -> StatsTable:
    """Three rows, of steps 20, 40 and 60."""
    table = StatsTable(tmp_path / "stats.tsv")
    table.start(0)
    for steps in (20, 40, 60):
        table.append({"iteration": steps, "loss": steps / 3})
    return table


def test_rows_have_a_header_and_tabs(table: StatsTable, tmp_path: Path) -> None:
    lines = (tmp_path / "stats.tsv").read_text().splitlines()
    assert lines == ["iteration\tloss", "20\t6.66667", "40\t13.3333", "60\t20"]
    assert table.series("loss").to_dict() == {20: 6.66667, 40: 13.3333, 60: 20}


def test_a_new_column_leaves_the_others_where_they_are(table: StatsTable, tmp_path: Path) -> None:
    table.append({"iteration": 80, "loss": 1.0, "AP-red\tbrick": 5})
    table.append({"iteration": 100, "AP-red\tbrick": float("nan")})
    found = rows(tmp_path / "stats.tsv")
    assert [list(row) for row in found] == 5 * [["iteration", "loss", "AP-red\tbrick"]]
    assert [row["iteration"] for row in found] == [20, 40, 60, 80, 100]
    assert found[3]["AP-red\tbrick"] == 5 and pd.isna(found[0]["AP-red\tbrick"]) and pd.isna(found[4]["loss"])
    assert table.series("AP-red\tbrick").to_dict() == {80: 5.0}


def test_a_resumed_run_keeps_what_its_checkpoint_knows(table: StatsTable, tmp_path: Path) -> None:
    again = StatsTable(tmp_path / "stats.tsv")
    again.start(50)
    assert [row["iteration"] for row in rows(tmp_path / "stats.tsv")] == [20, 40]
    again.append({"iteration": 60, "loss": 9})
    assert rows(tmp_path / "stats.tsv") == [
        {"iteration": 20, "loss": 6.66667},
        {"iteration": 40, "loss": 13.3333},
        {"iteration": 60, "loss": 9},
    ]


@pytest.mark.parametrize("torn", ["8", "80\t", "80\t1.2", "80\t1.2\t7\n", "x\t3\n"])
def test_a_line_cut_off_by_a_kill_is_forgotten(table: StatsTable, tmp_path: Path, torn: str) -> None:
    path = tmp_path / "stats.tsv"
    with path.open("a") as stream:
        stream.write(torn)
    again = StatsTable(path)
    again.start(1000)
    again.append({"iteration": 100, "loss": 0.5})
    assert [row["iteration"] for row in rows(path)] == [20, 40, 60, 100]


def test_a_row_of_the_same_steps_is_replaced(table: StatsTable, tmp_path: Path) -> None:
    table.append({"iteration": 60, "loss": 7})
    table.append({"iteration": 40, "loss": 5})
    assert [(row["iteration"], row["loss"]) for row in rows(tmp_path / "stats.tsv")] == [(20, 6.66667), (40, 5)]


def test_a_new_training_starts_anew_and_a_strange_file_is_no_table(table: StatsTable, tmp_path: Path) -> None:
    path = tmp_path / "stats.tsv"
    again = StatsTable(path)
    again.start(0)
    assert not path.exists()
    path.write_text("something else\n")
    again.start(60)
    again.append({"iteration": 80, "loss": 1})
    assert rows(path) == [{"iteration": 80, "loss": 1}]
