"""The command that says what is wrong with a data set, and mends a copy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from prepare_data import main

from tests.tools.command_line import error_of, run_process

Folder = Callable[..., Path]


def damage(folder: Path, **cells: object) -> None:
    """Change cells of row 3."""
    path = folder / "annotations.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name, value in cells.items():
        table.loc[1, name] = str(value)
    table.to_csv(path, index=False)


def check(*arguments: object) -> int:
    """The exit status of the command."""
    with pytest.raises(SystemExit) as stop:
        main(["check", *map(str, arguments)])
    return stop.value.code


def test_as_a_subprocess(tiny_folder: Folder, tmp_path: Path) -> None:
    folder = tiny_folder()
    damage(folder, area=5, mass=-1)
    done = run_process("prepare_data.py", "check", "demo", "--json", "check.json", "--fix", "mended", cwd=tmp_path)
    assert done.returncode == 1, done.stderr  # the mass cannot be mended
    assert "demo/annotations.csv, row 3, label 2 of img0: mass is -1; a mass is in grams" in done.stdout
    assert "area is 5 px" in done.stdout and "wrote check.json" in done.stdout
    head, tail = done.stdout.split("wrote mended with 1 changes, listed in mended/fixes.csv; what is left:")
    assert "area-wrong" in head and "area-wrong" not in tail and "bad-mass" in tail
    report = json.loads((tmp_path / "check.json").read_text())
    assert [(each["kind"], each["row"]) for each in report["findings"]] == [("bad-mass", 3), ("area-wrong", 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["check.json", "demo", "mended"]


def test_exit_status(tiny_folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_folder()
    assert check(folder) == 0
    assert "nothing to complain about" in capsys.readouterr().out
    damage(folder, res=2e6)  # one image has one resolution
    assert check(folder) == 1
    damage(folder, res=2)
    assert check(folder) == 0
    path = folder / "annotations.csv"
    table = pd.read_csv(path)
    table.assign(res=2e6).to_csv(path, index=False)  # a warning
    assert check(folder) == 0
    assert "resolution-outlier" in capsys.readouterr().out


def test_what_fix_repairs_is_no_error_any_more(tiny_folder: Folder, tmp_path: Path) -> None:
    folder = tiny_folder()
    damage(folder, area=5)
    assert check(folder) == 1
    assert check(folder, "--fix", tmp_path / "mended") == 0
    assert check(tmp_path / "mended") == 0


def test_classes_and_split(tiny_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_folder()
    (tmp_path / "classes.json").write_text('{"brick": 1, "concrete": 2}')
    assert check(folder, "--classes", tmp_path / "classes.json") == 1
    assert "class 'glass' is not in the class list (brick, concrete)" in capsys.readouterr().out
    split = {
        "format": "ramses-split",
        "version": 1,
        "folders": {"d": "demo"},
        "classes": ["brick", "concrete", "glass"],
    }
    split["subsets"] = {"train": ["d/img0"], "valid": ["d/img0"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    assert check(folder, "--split", tmp_path / "split.json") == 1
    assert "in-two-subsets" in capsys.readouterr().out


def test_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--kinds") == 0
    assert "row-without-pixels" in capsys.readouterr().out
    assert check("--help") == 0
    assert "example: python tools/prepare_data.py check" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["demo", "--split", "nowhere.json"], "no such file"),
        (["demo", "--classes", "nowhere.json"], "no such file"),
        (["demo", "--workers", "0"], "workers 0"),
        (["demo", "--json", "nowhere/check.json"], "no such folder"),
        (["demo", "--json", "notes.json", "--force"], "no report of a check"),
        (["demo", "--json", "notes.json"], "--force"),
        (["demo", "demo", "--fix", "out"], "one folder at a time"),
        (["demo", "--fix", "demo/mended"], "outside"),
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
    folder, output, report = tiny_folder(), tmp_path / "mended", tmp_path / "check.json"
    assert check(folder, "--json", report, "--fix", output) == 0
    damage(folder, area=5)
    for option, value in (("--json", report), ("--fix", output)):
        assert "--force" in check(folder, option, value)
    assert check(folder, "--json", report, "--fix", output, "--force") == 0
    assert json.loads(report.read_text())["errors"] == 1
    assert len((output / "fixes.csv").read_text().splitlines()) == 2
