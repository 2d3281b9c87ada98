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

CONFIG = ["preview", "--config-file", str(ROOT / "tests/ramses_tiny.yaml")]
MASK_RCNN = ["preview", "--config-file", str(ROOT / "tests/mask_rcnn_tiny.yaml")]


def test_preview_as_a_process(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    arguments = ["--data", f"ramses://{tiny_folder()}", "--output", "out", "--pictures", "2", "--suggest"]
    done = run_process("prepare_data.py", *CONFIG, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["assignment.json", "contact_sheet.png", "scales_config.png", "scales_suggested.png"]
    sheet = np.array(Image.open(tmp_path / "out/contact_sheet.png"))
    assert sheet.shape[1] > 2 * sheet.shape[0]  # two images of 128 x 192 side by side
    report = json.loads((tmp_path / "out/assignment.json").read_text())
    assert report["config"]["objects"] > 0 and report["suggested"]["share_with_cell"] >= 0.99
    lines = done.stdout[done.stdout.index("MODEL:") : done.stdout.index("wrote ")]
    keys = {name.upper(): report["suggested"][name] for name in ("grid_sizes", "scale_ranges")}
    assert yaml.safe_load(lines) == {"MODEL": {"RAMSES": keys}} and len(keys["SCALE_RANGES"]) == 4


def test_mask_rcnn_has_a_contact_sheet_alone(
    tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*MASK_RCNN, "--data", f"ramses://{tiny_folder()}", "--output", "out"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *arguments])
    runpy.run_path(str(ROOT / "tools/prepare_data.py"), run_name="__main__")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["contact_sheet.png"]
    sheet = np.array(Image.open(tmp_path / "out/contact_sheet.png")).astype(int)
    assert (np.ptp(sheet, axis=2) > 60).mean() > 0.01  # grey images, coloured outlines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*CONFIG, "--output", "out", "--pictures", "0"], "--pictures"),
        ([*CONFIG, "--output", "out", "--data", "ramses://nosuch"], "nosuch"),
        ([*CONFIG, "--output", "."], "--force"),
        ([*CONFIG, "--output", "out", "--data", "ramses://demo", "MODEL.RAMSES.IN_FEATURES", "['p9']"], "p9"),
        ([*MASK_RCNN, "--output", "out", "--suggest"], "--suggest"),
    ],
)
def test_wrong_arguments_are_one_line(
    tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    tiny_folder()
    assert words in error_of("prepare_data.py", *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
    assert not (tmp_path / "out").exists()
