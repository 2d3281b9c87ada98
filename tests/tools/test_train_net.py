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

TINY_YAML = ROOT / "tests/ramses_tiny.yaml"
train_net = partial(run_process, "train_net.py")


def on(folder: Path, *options: str) -> list[str]:
    uri = f"('ramses://{folder}',)"
    return ["--config-file", str(TINY_YAML), *options, "DATASETS.TRAIN", uri, "DATASETS.TEST", uri, "OUTPUT_DIR", "out"]


def test_train_resume_and_evaluate(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_folder()
    result = train_net(*on(folder), "SOLVER.MAX_ITER", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "segm" in result.stdout and "Power law" in result.stdout  # the tables
    out = tmp_path / "out"
    assert {"model_final.pth", "metrics.json", "config.yaml", "evaluation.json", "mass_pairs.csv"} <= {
        p.name for p in out.iterdir()
    }

    result = train_net(*on(folder, "--resume"), "SOLVER.MAX_ITER", "4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Starting training from iteration" in result.stdout

    again = train_net(*on(folder), cwd=tmp_path)
    assert again.returncode == 1 and "out holds a training" in again.stderr

    # The config that training wrote is enough to evaluate
    result = train_net(
        "--config-file",
        "out/config.yaml",
        "--eval-only",
        "MODEL.WEIGHTS",
        "out/model_final.pth",
        "OUTPUT_DIR",
        "eval",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    evaluation = json.loads((tmp_path / "eval/evaluation.json").read_text())
    assert evaluation


def no_annotations(folder: Path) -> None:
    (folder / "annotations.csv").unlink()


def no_column(folder: Path) -> None:
    path = folder / "annotations.csv"
    path.write_text(path.read_text().replace(",res,", ",resolution,", 1))


def no_image(folder: Path) -> None:
    (folder / "images/img1.png").unlink()


def no_label_image(folder: Path) -> None:
    (folder / "labels/img1.png").unlink()


def zero_resolution(folder: Path) -> None:
    path = folder / "annotations.csv"
    header, *rows = path.read_text().splitlines()
    index = header.split(",").index("res")
    cells = rows[2].split(",")
    cells[index] = "0"
    path.write_text("\n".join([header, *rows[:2], ",".join(cells), *rows[3:]]) + "\n")


def truncated_image(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.write_bytes(path.read_bytes()[:700])


def colour_label(folder: Path) -> None:
    for path in (folder / "labels").iterdir():
        Image.open(path).convert("RGB").save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_annotations, "annotations.csv"),
        (no_column, "res"),
        (no_image, "img1"),
        (no_label_image, "img1"),
        (zero_resolution, "row"),
        (truncated_image, "images"),
        (colour_label, "labels"),
    ],
)
def test_damaged_data_is_one_line(
    tiny_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    folder = tiny_folder()
    damage(folder)
    assert message in error_of("train_net.py", *on(folder), cwd=tmp_path, monkeypatch=monkeypatch)
    assert not list(tmp_path.glob("out/*.pth"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.RAMSES.NUM_CLASSES", "7"), "NUM_CLASSES is 7"),
        (("INPUT.MIN_SIZE_TRAIN", "(100,)"), "64"),
        (("MODEL.RAMSES.NOSUCH", "1"), "NOSUCH"),
        (("MODEL.WEIGHTS", "nosuch.pth"), "nosuch.pth"),
    ],
)
def test_wrong_settings_are_one_line(
    tiny_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, str],
    message: str,
) -> None:
    folder = tiny_folder()
    assert message in error_of("train_net.py", *on(folder), *overrides, cwd=tmp_path, monkeypatch=monkeypatch)


def test_weights_that_do_not_fit_are_not_evaluated(
    tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"model": {"head.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    arguments = [*on(tiny_folder(), "--eval-only"), "MODEL.WEIGHTS", "other.pth"]
    assert "does not fit this config" in error_of("train_net.py", *arguments, cwd=tmp_path, monkeypatch=monkeypatch)


def test_a_broken_image_in_a_loader_process_is_one_line(
    tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder()
    truncated_image(folder)
    arguments = [*on(folder), "DATALOADER.NUM_WORKERS", "1"]
    assert "images" in error_of("train_net.py", *arguments, cwd=tmp_path, monkeypatch=monkeypatch)


def test_the_process_ends_with_one_line_and_status_1(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_folder()
    no_label_image(folder)
    result = train_net(*on(folder), cwd=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert not (tmp_path / "out").exists()


def test_evaluation_does_not_need_the_training_data(
    tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets past the missing data set and stops at weights that do not fit."""
    arguments = on(tiny_folder(), "--eval-only")
    arguments[arguments.index("DATASETS.TRAIN") + 1] = "('ramses://gone',)"
    torch.save({"model": {"head.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    message = error_of("train_net.py", *arguments, "MODEL.WEIGHTS", "other.pth", cwd=tmp_path, monkeypatch=monkeypatch)
    assert "does not fit this config" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [("SOLVER: [1", "broken.yaml"), ('_BASE_: "nosuch.yaml"', "nosuch.yaml"), ("SOLVER: {X: 1}", "SOLVER.X")],
)
def test_a_broken_config_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    assert message in error_of("train_net.py", "--config-file", "broken.yaml", cwd=tmp_path, monkeypatch=monkeypatch)


def test_a_name_that_is_no_data_set_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--config-file", str(TINY_YAML), "DATASETS.TEST", "('mine',)"]
    assert "ramses://FOLDER" in error_of("train_net.py", *arguments, cwd=tmp_path, monkeypatch=monkeypatch)


def test_a_image_that_breaks_a_training_leaves_no_traceback(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Detectron2 logs one of its own for whatever ends its loop."""
    folder = tiny_folder()
    truncated_image(folder)
    result = train_net(*on(folder), cwd=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stdout + result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 1


def test_a_missing_config_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--config-file is missing" in error_of("train_net.py", cwd=tmp_path, monkeypatch=monkeypatch)
