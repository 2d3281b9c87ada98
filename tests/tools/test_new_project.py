"""From somebody's data to a trained network: the project runs as it is written."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.coco_files import write_coco
from tests.tools.command_line import ROOT, error_of, run_process

SHORT = ["SOLVER.MAX_ITER", "2", "SOLVER.WARMUP_ITERS", "1", "TEST.EVAL_PERIOD", "0"]


def new_project(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["new_project.py", *arguments])
    runpy.run_path(str(ROOT / "tools/new_project.py"), run_name="__main__")


def test_script_on_a_ramses_folder(
    tiny_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tiny_folder(sizes=[(64, 96)] * 4)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.chdir(tmp_path)
    new_project(monkeypatch, "mine", "--data", str(folder))
    said = capsys.readouterr().out
    assert "24 particles of 3 classes (brick, concrete, glass), 24 weighed" in said and "ramses: network input" in said
    assert "wrote config.yaml, train.py, split.json to mine" in said
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, str(tmp_path / "mine/train.py"), *SHORT]
    result = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert re.search(r"/images/img\d\.png \d+ particles [\d.]+ g$", result.stdout.strip())
    assert (tmp_path / "mine/output/model_final.pth").is_file() and not any(elsewhere.iterdir())
    monkeypatch.setattr(sys, "argv", ["train.py", "--eval-only"])
    with pytest.raises(SystemExit, match="tools/train_net.py"):
        runpy.run_path(str(tmp_path / "mine/train.py"), run_name="__main__")


def test_config_on_coco_files(
    tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder(sizes=[(64, 96)] * 4)
    path = write_coco(tmp_path / "annotations.json", folder, [f"img{index}" for index in range(4)])
    monkeypatch.chdir(tmp_path)
    new_project(monkeypatch, "mine", "--data", str(path), "--images", str(folder / "images"), "--task", "mask_rcnn")
    files = ["config.yaml", "train.json", "train.py", "valid.json"]
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == files
    result = run_process("train_net.py", "--config-file", "mine/config.yaml", *SHORT, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert {"segm", "bbox"} <= set(json.loads((tmp_path / "mine/output/evaluation.json").read_text())["results"])


def test_wrong_input(tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tiny_folder(nan_masses=True))
    for arguments, words in (
        (["mine", "--data", "nowhere"], "nowhere"),
        (["mine", "--data", folder, "--task", "ramses"], "--task solov2"),
        (["mine", "--data", folder, "--valid-share", "2"], "--valid-share 2"),
        (["mine", "--data", "ramses://nowhere", "--valid", "ramses://nowhere"], "nowhere"),
        (["demo", "--data", folder], "demo exists"),
    ):
        assert words in error_of("new_project.py", *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
        assert not (tmp_path / "mine").exists()
