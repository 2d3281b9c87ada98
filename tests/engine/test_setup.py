"""What a command line checks before it writes anything, and what it leaves alone."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ramses_d2.engine import setup
from ramses_d2.engine.setup import _needs_traceback, load_config, prepare
from ramses_d2.engine.solver import resolve_iterations
from ramses_d2.errors import RamsesError
from tests.engine.training import TINY_YAML, trainer_of

NCCL = "NCCL error in: ProcessGroupNCCL.cpp:77, {}\nLast error:\n{}"


@pytest.fixture
def arguments(tiny_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., argparse.Namespace]:
    """Command line of a tiny training into ``tmp_path / "out"``."""
    uri = f"('ramses://{tiny_folder()}',)"
    sets = ["DATASETS.TRAIN", uri, "DATASETS.TEST", uri, "OUTPUT_DIR", str(tmp_path / "out")]

    def make(*overrides: str, resume: bool = False, eval_only: bool = False) -> argparse.Namespace:
        opts = [*sets, *overrides]
        return argparse.Namespace(config_file=TINY_YAML, opts=opts, resume=resume, eval_only=eval_only)

    return make


WRONG_NUMBERS = [
    ("SOLVER.IMS_PER_BATCH", "0", "from 1 on"),
    ("SOLVER.IMS_PER_BATCH", "-2", "from 1 on"),
    ("SOLVER.CHECKPOINT_PERIOD", "0", "from 1 on"),
    ("SOLVER.BASE_LR", "-1.0", "from 0 on"),
    ("SOLVER.WEIGHT_DECAY", "-0.1", "from 0 on"),
    ("DATALOADER.NUM_WORKERS", "-1", "from 0 on"),
    ("SEED", "99999999999999999999", "up to 4294967295"),
]


@pytest.mark.parametrize(("key", "value", "allowed"), WRONG_NUMBERS)
def test_a_number_out_of_its_range_is_one_line(arguments: Callable, key: str, value: str, allowed: str) -> None:
    for eval_only in (False, True):
        with pytest.raises(RamsesError, match=f"^{key} is {value}, use a number {allowed}$"):
            prepare(arguments(key, value, eval_only=eval_only))


def test_a_script_hears_of_a_batch_without_images() -> None:
    """The loader would look for a full batch for ever."""
    with pytest.raises(RamsesError, match="SOLVER.IMS_PER_BATCH is -1"):
        resolve_iterations(load_config(TINY_YAML, ["SOLVER.IMS_PER_BATCH", "-1"]), 7)


def test_the_best_weights_alone_are_a_training_too(arguments: Callable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model_best.pth").write_bytes(b"precious")
    with pytest.raises(RamsesError, match="out holds a training: model_best.pth is all .* choose another OUTPUT_DIR"):
        prepare(arguments())
    (out / "model_0000001.pth").touch()
    with pytest.raises(RamsesError, match="out holds a training: continue it with --resume"):
        prepare(arguments())


def test_a_resume_without_checkpoint_keeps_the_best_weights(arguments: Callable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model_best_earlier1.pth").write_bytes(b"older")
    (out / "model_best.pth").write_bytes(b"precious")
    trainer = trainer_of(prepare(arguments(resume=True)), resume=True)
    assert trainer.start_iter == 0
    kept = {path.name: path.read_bytes() for path in out.glob("*.pth")}
    assert kept == {"model_best_earlier1.pth": b"older", "model_best_earlier2.pth": b"precious"}


@pytest.mark.parametrize("name", ["model_0000001.pth", "model_best.pth", "model.pth"])
def test_an_evaluation_leaves_the_config_of_its_weights(arguments: Callable, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for file in ("config.yaml", "log.txt"):
        (out / file).write_text("of the training")
    (out / name).touch()
    cfg = setup(arguments("MODEL.WEIGHTS", str(out / name), "SOLVER.BASE_LR", "5.0", eval_only=True))
    assert cfg.OUTPUT_DIR == str(out)
    assert (out / "config.yaml").read_text() == (out / "log.txt").read_text() == "of the training"
    own = load_config(str(out / "evaluation/config.yaml"))
    assert (own.SOLVER.BASE_LR, own.OUTPUT_DIR) == (5.0, str(out))
    assert (out / "evaluation/log.txt").is_file()


def test_an_evaluation_elsewhere_has_its_config_beside_its_results(arguments: Callable, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").touch()
    for _ in range(2):
        setup(arguments("MODEL.WEIGHTS", str(tmp_path / "weights.pth"), eval_only=True))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.yaml", "log.txt"}


@pytest.mark.parametrize(
    ("error", "needs"),
    [
        (RamsesError("wrong input"), False),
        (RuntimeError("Connection closed by peer [127.0.0.1]:1"), False),
        (torch.distributed.DistBackendError(NCCL.format("remote process exited", "closed by remote peer")), False),
        (torch.distributed.DistBackendError(NCCL.format("unhandled system error", "/dev/shm: No space left")), True),
        (ZeroDivisionError(), True),
    ],
    ids=str,
)
def test_only_faults_are_logged_with_a_traceback(error: Exception, needs: bool) -> None:
    try:
        raise error
    except Exception:
        record = logging.LogRecord("detectron2.engine.train_loop", logging.ERROR, "", 0, "", None, sys.exc_info())
    assert _needs_traceback(record) == needs
