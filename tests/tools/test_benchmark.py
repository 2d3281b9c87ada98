"""The benchmark as users call it: options that mean something, and no noise of other projects."""

from __future__ import annotations

import sys
from pathlib import Path

import benchmark
import pytest

from tests.tools.command_line import run_process


def test_help_without_warnings(tmp_path: Path) -> None:
    result = run_process("benchmark.py", "--help", cwd=tmp_path)
    assert result.returncode == 0 and "--objects" in result.stdout and not result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--objects", "5", "0"],
        ["--objects", "-3"],
        ["--repeat", "0"],
        ["--outputs", "0", "64"],
        ["--outputs", "64", "-1"],
    ],
)
def test_numbers_below_one(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = [] if "--outputs" in arguments else ["--config-file", "any.yaml"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *config, *arguments])
    with pytest.raises(SystemExit) as stop:
        benchmark.main()
    message = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2 and arguments[0] in message and "from 1 on" in message


@pytest.mark.parametrize("way", [[], ["--yardstick"]])
def test_outputs_of_an_image(
    way: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--outputs", "96", "144", "--objects", "6", *way])
    benchmark.main()
    assert capsys.readouterr().out.splitlines()[-1] == "6 particles"
