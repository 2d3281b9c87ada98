"""What a command line checks before it writes anything, and what it leaves alone."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from ramses_d2.config import load_config
from ramses_d2.engine import setup
from ramses_d2.engine.setup import prepare
from ramses_d2.errors import RamsesError
from tests.engine.conftest import TINY_YAML, trainer_of

NCCL = "NCCL error in: ProcessGroupNCCL.cpp:77, {}\nLast error:\n{}"


@pytest.fixture
def arguments(folder: Path, out: Path) -> Callable[..., argparse.Namespace]:
    """Command line of a tiny training into ``out``."""
    uri = f"('ramses://{folder}',)"
    sets = ["DATASETS.TRAIN", uri, "DATASETS.TEST", uri, "OUTPUT_DIR", str(out)]

    def make(*overrides: str, resume: bool = False, eval_only: bool = False) -> argparse.Namespace:
        opts = [*sets, *overrides]
        return argparse.Namespace(config_file=TINY_YAML, opts=opts, resume=resume, eval_only=eval_only)

    return make


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("eval_only", [False, True])
@pytest.mark.parametrize(("key", "value"), [("SOLVER.IMS_PER_BATCH", "0"), ("SEED", "99999999999999999999")])
def test_a_number_out_of_its_range_is_one_line(arguments: Callable, key: str, value: str, eval_only: bool) -> None:
    with pytest.raises(RamsesError, match=f"^{key} is {value}, use a number"):
        prepare(arguments(key, value, eval_only=eval_only))


def test_only_a_training_hears_of_its_schedule(arguments: Callable, tmp_path: Path) -> None:
    """A network that was trained with one that has gone can still be evaluated."""
    (tmp_path / "weights.pth").touch()
    options = ("SOLVER.LR_SCHEDULER_NAME", "ReduceOnPlateau", "MODEL.WEIGHTS", str(tmp_path / "weights.pth"))
    prepare(arguments(*options, eval_only=True))
    with pytest.raises(RamsesError, match="ReduceOnPlateau"):
        prepare(arguments(*options))


def test_classes_must_fit_the_data(config: Callable[..., CfgNode]) -> None:
    with pytest.raises(RamsesError, match="NUM_CLASSES is 7, but .* has 3 classes"):
        config("MODEL.RAMSES.NUM_CLASSES", 7)
    with pytest.raises(RamsesError, match="CLASS_NAMES is c, b, a"):
        config("MODEL.RAMSES.CLASS_NAMES", ["c", "b", "a"])
    assert config().MODEL.RAMSES.CLASS_NAMES == ["brick", "concrete", "glass"]


def test_the_best_weights_alone_are_a_training_too(arguments: Callable, out: Path) -> None:
    (out / "model_best.pth").write_bytes(b"precious")
    with pytest.raises(RamsesError, match="out holds a training: model_best.pth is all .* choose another OUTPUT_DIR"):
        prepare(arguments())
    (out / "model_0000001.pth").touch()
    with pytest.raises(RamsesError, match="out holds a training: continue it with --resume"):
        prepare(arguments())


def test_a_resume_without_checkpoint_keeps_the_best_weights(arguments: Callable, out: Path) -> None:
    (out / "model_best_earlier1.pth").write_bytes(b"older")
    (out / "model_best.pth").write_bytes(b"precious")
    assert trainer_of(prepare(arguments(resume=True)), resume=True).start_iter == 0
    kept = {path.name: path.read_bytes() for path in out.glob("*.pth")}
    assert kept == {"model_best_earlier1.pth": b"older", "model_best_earlier2.pth": b"precious"}


@pytest.mark.parametrize("name", ["model_0000001.pth", "model_best.pth", "model.pth"])
def test_an_evaluation_leaves_the_config_of_its_weights(arguments: Callable, out: Path, name: str) -> None:
    for file in ("config.yaml", "log.txt"):
        (out / file).write_text("of the training")
    (out / name).touch()
    cfg = setup(arguments("MODEL.WEIGHTS", str(out / name), "SOLVER.BASE_LR", "5.0", eval_only=True))
    assert cfg.OUTPUT_DIR == str(out)
    assert (out / "config.yaml").read_text() == (out / "log.txt").read_text() == "of the training"
    own = load_config(str(out / "evaluation/config.yaml"))
    assert (own.SOLVER.BASE_LR, own.OUTPUT_DIR) == (5.0, str(out))
    assert (out / "evaluation/log.txt").is_file()


def test_an_evaluation_elsewhere_has_its_config_beside_its_results(arguments: Callable, out: Path) -> None:
    weights = out.with_name("weights.pth")
    weights.touch()
    for _ in range(2):
        setup(arguments("MODEL.WEIGHTS", str(weights), eval_only=True))
    assert {path.name for path in out.iterdir()} == {"config.yaml", "log.txt"}


@pytest.mark.parametrize(
    ("error", "needs"),
    [
        (RamsesError("wrong input"), False),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("Connection closed by peer [127.0.0.1]:1"), False),
        (torch.distributed.DistBackendError(NCCL.format("remote process exited", "closed by remote peer")), False),
        (torch.distributed.DistBackendError(NCCL.format("unhandled system error", "/dev/shm: No space left")), True),
        (ZeroDivisionError(), True),
    ],
    ids=str,
)
def test_only_faults_are_logged_with_a_traceback(arguments: Callable, error: Exception, needs: bool) -> None:
    setup(arguments())
    logger = logging.getLogger("detectron2.engine.train_loop")
    try:
        raise error
    except Exception:
        record = logger.makeRecord(logger.name, logging.ERROR, "", 0, "", (), sys.exc_info())
    assert bool(logger.filter(record)) == needs
