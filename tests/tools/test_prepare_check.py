"""The command that says what is wrong with a data set, and repairs a copy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from prepare_data import main

from tests.tools.command_line import error_of, run_process

Folder = Callable[..., Path]


def damage(folder: Path, rows: int | slice = 1, **cells: object) -> None:
    """Change cells of row 3, or of other rows."""
    table = pd.read_csv(folder / "annotations.csv", dtype=str, keep_default_na=False)
    for name, value in cells.items():
        table.loc[rows, name] = str(value)
    table.to_csv(folder / "annotations.csv", index=False)


def check(*arguments: object) -> int:
    """The exit status of the command."""
    with pytest.raises(SystemExit) as stop:
        main(["check", *map(str, arguments)])
    return stop.value.code


def test_as_a_subprocess(tiny_folder: Folder, tmp_path: Path) -> None:
    damage(tiny_folder(), area=5, mass=-1)
    done = run_process("prepare_data.py", "check", "demo", "--json", "check.json", "--fix", "fixed", cwd=tmp_path)
    assert done.returncode == 1, done.stderr  # the mass cannot be repaired
    assert (
        "demo/annotations.csv, row 3, label 2 of img0: mass is -1" in done.stdout and "wrote check.json" in done.stdout
    )
    head, tail = done.stdout.split("wrote fixed with 1 changes, listed in fixed/fixes.csv")
    assert "area-wrong" in head and "area-wrong" not in tail and "bad-mass" in tail
    report = json.loads((tmp_path / "check.json").read_text())
    assert [(each["kind"], each["row"]) for each in report["findings"]] == [("bad-mass", 3), ("area-wrong", 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["check.json", "demo", "fixed"]


def test_exit_status(tiny_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_folder()
    for rows, cells, status in (
        (1, {}, 0),
        (1, {"res": 2e6}, 1),  # one image has one resolution
        (slice(None), {"res": 2e6}, 0),  # a warning
        (1, {"res": 2e6, "area": 5}, 1),
    ):
        damage(folder, rows, **cells)
        assert check(folder) == status
    assert "resolution-outlier" in capsys.readouterr().out
    assert check(folder, "--fix", tmp_path / "fixed") == check(tmp_path / "fixed") == 0


def test_classes_split_and_kinds(tiny_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_folder()
    (tmp_path / "classes.json").write_text('{"brick": 1, "concrete": 2}')
    split = {
        "format": "ramses-split",
        "version": 1,
        "folders": {"d": "demo"},
        "classes": ["brick", "concrete", "glass"],
    }
    split["subsets"] = {"train": ["d/img0"], "valid": ["d/img0"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    for arguments, status, words in (
        ([folder, "--classes", tmp_path / "classes.json"], 1, "unknown-class"),
        ([folder, "--split", tmp_path / "split.json"], 1, "in-two-subsets"),
        (["--kinds"], 0, "row-without-pixels"),
        (["--help"], 0, "example: python tools/prepare_data.py check"),
    ):
        assert check(*arguments) == status
        assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["demo", "--split", "nowhere.json"], "nowhere.json: no such file"),
        (["demo", "--classes", "nowhere.json"], "nowhere.json: no such file"),
        (["demo", "--workers", "0"], "workers 0"),
        (["demo", "--json", "nowhere/check.json"], "nowhere: no such folder"),
        (["demo", "--json", "notes.json", "--force"], "notes.json is not a report"),
        (["demo", "--json", "notes.json"], "--force"),
        (["demo", "demo", "--fix", "out"], "one folder at a time"),
        (["demo", "--fix", "demo/fixed"], "outside"),
        (["demo", "--fix", "notes.json"], "is a file"),
    ],
)
def test_wrong_arguments_get_one_line(
    tiny_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    tiny_folder()
    (tmp_path / "notes.json").write_text("{}")
    assert message in error_of("prepare_data.py", "check", *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo", "notes.json"]


def test_results_are_replaced_with_force_only(tiny_folder: Folder, tmp_path: Path) -> None:
    folder, output, report = tiny_folder(), tmp_path / "fixed", tmp_path / "check.json"
    assert check(folder, "--json", report, "--fix", output) == 0
    damage(folder, area=5)
    for option, value in (("--json", report), ("--fix", output)):
        assert "--force" in check(folder, option, value)
    assert check(folder, "--json", report, "--fix", output, "--force") == 0
    assert json.loads(report.read_text())["errors"] == 1
    assert len((output / "fixes.csv").read_text().splitlines()) == 2
