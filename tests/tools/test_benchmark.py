"""The two benchmarks as users call them: options that mean something, and no noise of other projects."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests.tools.command_line import ROOT, run_process

BOTH = ["benchmark.py", "benchmark_outputs.py"]


@pytest.mark.parametrize("tool", BOTH)
def test_help_without_warnings(tool: str, tmp_path: Path) -> None:
    result = run_process(tool, "--help", cwd=tmp_path)
    assert result.returncode == 0 and "--objects" in result.stdout and not result.stderr


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        (BOTH[0], ["--objects", "5", "0"]),
        (BOTH[0], ["--objects", "-3"]),
        (BOTH[0], ["--repeat", "0"]),
        (BOTH[1], ["--objects", "0"]),
        (BOTH[1], ["--size", "0", "64"]),
        (BOTH[1], ["--network-size", "64", "-1"]),
    ],
)
def test_numbers_below_one(
    tool: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config-file", "any.yaml"] if tool == BOTH[0] else []
    monkeypatch.setattr(sys, "argv", [tool, *config, *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
    message = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2 and arguments[0] in message and "from 1 on" in message
