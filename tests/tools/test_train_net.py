"""The training command line, as users call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.tools.command_line import ROOT, error_of, run_process

TINY_YAML = str(ROOT / "tests/ramses_tiny.yaml")
train_net = partial(run_process, "train_net.py")


def on(folder: Path, *options: str) -> list[str]:
    uri = f"('ramses://{folder}',)"
    return ["--config-file", TINY_YAML, *options, "DATASETS.TRAIN", uri, "DATASETS.TEST", uri, "OUTPUT_DIR", "out"]


def test_train_resume_and_evaluate(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder, out = tiny_folder(), tmp_path / "out"
    result = train_net(*on(folder), "SOLVER.MAX_ITER", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "segm" in result.stdout and "Power law" in result.stdout  # the tables
    written = {"model_final.pth", "metrics.json", "config.yaml", "evaluation.json", "mass_pairs.csv"}
    assert written <= {path.name for path in out.iterdir()}

    result = train_net(*on(folder, "--resume"), "SOLVER.MAX_ITER", "4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Starting training from iteration 2" in result.stdout

    again = train_net(*on(folder), cwd=tmp_path)
    assert again.returncode == 1 and "out holds a training" in again.stderr

    # The config that training wrote is enough to evaluate, and the training data is not needed for it
    weights = ("MODEL.WEIGHTS", "out/model_final.pth", "DATASETS.TRAIN", "('ramses://gone',)")
    result = train_net("--config-file", "out/config.yaml", "--eval-only", *weights, "OUTPUT_DIR", "eval", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Evaluating without the training data" in result.stdout + result.stderr
    assert json.loads((tmp_path / "eval/evaluation.json").read_text())


def no_annotations(folder: Path) -> None:
    (folder / "annotations.csv").unlink()


def no_column(folder: Path) -> None:
    path = folder / "annotations.csv"
    path.write_text(path.read_text().replace(",res,", ",resolution,", 1))


def no_label_image(folder: Path) -> None:
    (folder / "labels/img1.png").unlink()


def truncated_image(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.write_bytes(path.read_bytes()[:700])


def colour_label(folder: Path) -> None:
    for path in (folder / "labels").iterdir():
        Image.open(path).convert("RGB").save(path)


def unharmed(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (no_annotations, (), "annotations.csv"),
        (no_column, (), "res"),
        (no_label_image, (), "img1"),
        (truncated_image, (), "images"),
        (truncated_image, ("DATALOADER.NUM_WORKERS", "1"), "images"),
        (colour_label, (), "labels"),
        (unharmed, ("MODEL.RAMSES.NUM_CLASSES", "7"), "NUM_CLASSES is 7"),
        (unharmed, ("INPUT.MIN_SIZE_TRAIN", "(100,)"), "64"),
        (unharmed, ("MODEL.RAMSES.NOSUCH", "1"), "NOSUCH"),
        (unharmed, ("SOLVER.LR_SCHEDULER_NAME", "ReduceOnPlateau"), "docs/changes.md"),
        (unharmed, ("MODEL.WEIGHTS", "nosuch.pth"), "nosuch.pth"),
        (unharmed, ("DATASETS.TEST", "('mine',)"), "ramses://FOLDER"),
        (unharmed, ("--eval-only", "MODEL.WEIGHTS", "nosuch.pth"), "nosuch.pth"),
        (unharmed, ("--eval-only", "MODEL.WEIGHTS", "other.pth"), "does not fit this config"),
        (unharmed, ("--config-file", ""), "--config-file is missing"),
    ],
)
def test_wrong_input_is_one_line(
    tiny_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    options: tuple[str, ...],
    message: str,
) -> None:
    folder = tiny_folder()
    damage(folder)
    torch.save({"model": {"head.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    flags = 2 if options[:1] == ("--config-file",) else len(options) % 2
    arguments = [*on(folder, *options[:flags]), *options[flags:]]
    assert message in error_of("train_net.py", *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
    assert not list(tmp_path.glob("out/*.pth"))


@pytest.mark.parametrize(("damage", "begun"), [(no_label_image, False), (truncated_image, True)])
def test_the_process_ends_with_one_line_and_status_1(
    tiny_folder: Callable[..., Path], tmp_path: Path, damage: Callable[[Path], None], begun: bool
) -> None:
    """Detectron2 logs a traceback of its own for whatever ends its loop."""
    folder = tiny_folder()
    damage(folder)
    result = train_net(*on(folder), cwd=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stdout + result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert (tmp_path / "out").exists() == begun
