"""The best checkpoint: by any metric, either way round, of either set of weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage

from ramses_d2 import RamsesError
from ramses_d2.engine import RamsesTrainer
from ramses_d2.engine.hooks import BestCheckpoint

from .training import tiny_config, trainer_of


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the results of the evaluations to come."""

    def set_results(*results: dict[str, dict[str, float]]) -> None:
        remaining = list(results)
        monkeypatch.setattr(RamsesTrainer, "test", lambda *args, **kwargs: remaining.pop(0))

    return set_results


def best_of(trainer: RamsesTrainer) -> BestCheckpoint:
    (hook,) = (hook for hook in trainer._hooks if isinstance(hook, BestCheckpoint))
    return hook


@pytest.mark.parametrize(("mode", "best"), [("max", 2), ("min", 1)])
def test_by_a_metric_of_choice(
    tiny_folder: Callable[..., Path], tmp_path: Path, evaluated: Any, mode: str, best: int
) -> None:
    folder = tiny_folder()
    options = ("TEST.EVAL_PERIOD", 1, "TEST.BEST_METRIC", "mass/MAPE", "TEST.BEST_MODE", mode)
    cfg = tiny_config(folder, tmp_path / "out", *options, test=[folder])
    evaluated(*({"segm": {"AP": 1.0}, "mass": {"MAPE": value}} for value in (float("nan"), 3.0, 7.0, 5.0)))
    trainer = trainer_of(cfg)
    trainer.train()
    assert best_of(trainer).best_iter == best
    assert torch.load(tmp_path / "out/model_best.pth")["iteration"] == best
    assert (tmp_path / "out/last_checkpoint").read_text() == "model_final.pth"


def test_an_unknown_metric_names_those_there_are(
    tiny_folder: Callable[..., Path], tmp_path: Path, evaluated: Any
) -> None:
    folder = tiny_folder()
    cfg = tiny_config(folder, tmp_path / "out", "TEST.EVAL_PERIOD", 1, "TEST.BEST_METRIC", "segm/ap", test=[folder])
    evaluated({"segm": {"AP": 1.0}, "mass": {"MAPE": 2.0}})
    with pytest.raises(RamsesError, match='TEST.BEST_METRIC is "segm/ap".* mass/MAPE, segm/AP'):
        trainer_of(cfg).train()


def test_an_unknown_mode(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_folder()
    with pytest.raises(RamsesError, match='TEST.BEST_MODE is "largest"'):
        trainer_of(tiny_config(folder, tmp_path / "out", "TEST.BEST_MODE", "largest", test=[folder]))


def test_of_averaged_weights_these_are_kept(tiny_folder: Callable[..., Path], tmp_path: Path, evaluated: Any) -> None:
    folder = tiny_folder()
    options = ("SOLVER.EMA_DECAY", 0.9, "TEST.BEST_METRIC", "ema/segm/AP", "SOLVER.MAX_ITER", 2)
    evaluated({"segm": {"AP": 1.0}}, {"segm": {"AP": 2.0}})
    trainer = trainer_of(tiny_config(folder, tmp_path / "out", *options, test=[folder]))
    trainer.train()
    assert best_of(trainer).best_metric == 2.0
    kept = torch.load(tmp_path / "out/model_best.pth")["model"]
    own = trainer.model.state_dict()
    assert all(torch.equal(kept[name], trainer.ema.average[name]) for name in kept)
    assert any(not torch.equal(kept[name], own[name]) for name in kept)


def test_scores_of_another_metric_are_not_compared(
    tiny_folder: Callable[..., Path], tmp_path: Path, evaluated: Any
) -> None:
    folder = tiny_folder()
    evaluated({"segm": {"AP": 50.0, "AP50": 0.5}}, {"segm": {"AP": 50.0, "AP50": 0.5}})
    trainer_of(tiny_config(folder, tmp_path / "out", "TEST.EVAL_PERIOD", 2, test=[folder])).train()
    options = ("TEST.EVAL_PERIOD", 2, "TEST.BEST_METRIC", "segm/AP50", "SOLVER.MAX_ITER", 6)
    evaluated(*[{"segm": {"AP": 1.0, "AP50": 0.25}}] * 2)
    trainer = trainer_of(tiny_config(folder, tmp_path / "out", *options, test=[folder]), resume=True)
    with EventStorage():
        trainer.train()
    assert (best_of(trainer).best_metric, best_of(trainer).best_iter) == (0.25, 3)
