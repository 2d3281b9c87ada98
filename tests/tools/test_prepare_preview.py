"""prepare_data.py preview: files a user can look at, and lines that go into a config."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.tools.command_line import ROOT, error_of, run_process

CONFIG = str(ROOT / "tests/ramses_tiny.yaml")


def test_preview_as_a_process(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    uri = f"ramses://{tiny_folder()}"
    arguments = ["--config-file", CONFIG, "--data", uri, "--output", "out", "--pictures", "2", "--suggest"]
    done = run_process("prepare_data.py", "preview", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["assignment.json", "contact_sheet.png", "scales_config.png", "scales_suggested.png"]
    sheet = np.array(Image.open(tmp_path / "out/contact_sheet.png"))
    assert sheet.shape[1] > 2 * sheet.shape[0]  # two images of 128 x 192 side by side
    report = json.loads((tmp_path / "out/assignment.json").read_text())
    assert report["config"]["objects"] > 0 and report["suggested"]["share_with_cell"] >= 0.99
    suggested = yaml.safe_load(done.stdout[done.stdout.index("MODEL:") : done.stdout.index("wrote ")])["MODEL"][
        "RAMSES"
    ]
    assert suggested["GRID_SIZES"] == report["suggested"]["grid_sizes"] and len(suggested["SCALE_RANGES"]) == 4


def test_mask_rcnn_has_a_contact_sheet_alone(
    tiny_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = str(ROOT / "tests/mask_rcnn_tiny.yaml")
    arguments = ["preview", "--config-file", config, "--data", f"ramses://{tiny_folder()}", "--output", "out"]
    error = error_of("prepare_data.py", *arguments, "--suggest", cwd=tmp_path, monkeypatch=monkeypatch)
    assert "Mask R-CNN has no grids to suggest" in error
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *arguments])
    runpy.run_path(str(ROOT / "tools/prepare_data.py"), run_name="__main__")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["contact_sheet.png"]
    sheet = np.array(Image.open(tmp_path / "out/contact_sheet.png")).astype(int)
    assert (np.ptp(sheet, axis=2) > 60).mean() > 0.01  # grey images, coloured outlines
    assert "wrote contact_sheet.png to out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--pictures", "0"], "--pictures"),
        (["--data", "ramses://nosuch"], "nosuch"),
        (["--output", "."], "--force"),
        (["MODEL.RAMSES.IN_FEATURES", "['p9']"], "p9"),
    ],
)
def test_wrong_arguments_are_one_line(
    tiny_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    extra: list[str],
    message: str,
) -> None:
    arguments = ["preview", "--config-file", CONFIG, "--data", f"ramses://{tiny_folder()}", "--output", "out", *extra]
    assert message in error_of("prepare_data.py", *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
    assert not (tmp_path / "out").exists()
