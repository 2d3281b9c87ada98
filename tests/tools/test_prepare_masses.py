"""prepare_data.py masses, as users call it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from prepare_data import main

from tests.conftest import write_json
from tests.tools.command_line import error_of, run_process


@pytest.fixture
def folder(tiny_folder: Callable[..., Path]) -> Path:
    """Two images weighed together; concrete was not weighed, glass is not in the batch."""
    folder = tiny_folder(nan_masses=True)
    batches = [{"image_names": ["img0.png", "img1.png"], "mass": {"brick": 30, "concrete": None}}]
    write_json(folder / "metadata.json", {"batches": batches})
    return folder


def test_as_a_process(folder: Path, tmp_path: Path) -> None:
    before = (folder / "annotations.csv").read_bytes()
    result = run_process("prepare_data.py", "masses", str(folder), "--output", "weighed.csv", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    line = next(line.split() for line in result.stdout.splitlines() if "brick" in line)
    assert line[:6] == ["1", "brick", "shared", "30", "0", "30"] and line[7:10] == ["4", "4", "0"]
    assert "without mass: 4 particles of concrete in batch 1 (not weighed)" in result.stdout
    assert "without mass: 4 particles of glass in batch 1 (class not in the batch)" in result.stdout
    assert "wrote weighed.csv: 4 particles got 30 g" in result.stdout
    table = pd.read_csv(tmp_path / "weighed.csv")
    assert table["mass"].sum() == pytest.approx(30) and table["mass"].count() == 4
    assert (folder / "annotations.csv").read_bytes() == before


def test_default_name_coins_and_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["masses", str(folder), "--coin-class", "glass", "--coin-mass", "2.5", "--measure"]
    main(command)
    table = pd.read_csv(folder / "annotations-masses.csv")
    assert (table.loc[table["class"] == "glass", "mass"] == 2.5).all() and "mass of a coin" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="annotations-masses.csv exists: .*--force"):
        main(command)
    main([*command, "--force"])


def test_errors(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(path.name for path in folder.iterdir())
    for arguments, words in (
        (["nowhere"], "nowhere: no such folder"),
        (["demo", "--output", "demo/annotations.csv", "--force"], "not replaced"),
        (["demo", "--coin-mass", "0"], "coin mass 0 g"),
    ):
        assert words in error_of("prepare_data.py", "masses", *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
    assert sorted(path.name for path in folder.iterdir()) == before
