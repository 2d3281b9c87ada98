"""Run a tool as a script: in this process where only its message matters, as a real process where everything does."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_process(tool: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``tools/<tool>`` in a process of its own."""
    command = [sys.executable, str(ROOT / "tools" / tool), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


def error_of(tool: str, *arguments: str, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run ``tools/<tool>`` here and return the one line it exits with (a string means status 1, see ``sys.exit``)."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", [tool, *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code, stop.value.code
    assert stop.value.code.startswith("error: ")
    return stop.value.code
