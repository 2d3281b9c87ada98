"""The best checkpoint: by any metric, either way round, of either set of weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage

from ramses_d2.engine.hooks import BestCheckpoint
from ramses_d2.engine.trainer import RamsesTrainer
from ramses_d2.errors import RamsesError
from tests.engine.training import tiny_config, trainer_of


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
    assert best_of(trainer).best_steps == best + 1
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
    assert all(torch.equal(kept[name], trainer.ema.module.state_dict()[name]) for name in kept)
    assert any(not torch.equal(kept[name], own[name]) for name in kept)


def test_a_folder_named_ema_is_no_average(tiny_folder: Callable[..., Path], tmp_path: Path, evaluated: Any) -> None:
    folder = tiny_folder()
    options = ("SOLVER.EMA_DECAY", 0.9, "TEST.BEST_METRIC", "x://ema/segm/AP", "SOLVER.MAX_ITER", 2)
    evaluated({"x://ema": {"segm/AP": 1.0}}, {"x://ema": {"segm/AP": 2.0}})
    trainer = trainer_of(tiny_config(folder, tmp_path / "out", *options, test=[folder]))
    trainer.train()
    kept, own = torch.load(tmp_path / "out/model_best.pth")["model"], trainer.model.state_dict()
    assert best_of(trainer).best_metric == 1.0 and all(torch.equal(kept[name], own[name]) for name in kept)


@pytest.mark.parametrize(
    ("key", "value", "best"), [("TEST.BEST_METRIC", "segm/AP50", 0.25), ("TEST.BEST_MODE", "min", 60.0)]
)
def test_scores_by_another_measure_are_not_compared(
    tiny_folder: Callable[..., Path], tmp_path: Path, evaluated: Any, key: str, value: str, best: float
) -> None:
    folder = tiny_folder()
    evaluated(*[{"segm": {"AP": 50.0, "AP50": 0.5}}] * 2)
    trainer_of(tiny_config(folder, tmp_path / "out", "TEST.EVAL_PERIOD", 2, test=[folder])).train()
    options = ("TEST.EVAL_PERIOD", 2, key, value, "SOLVER.MAX_ITER", 6)
    evaluated(*[{"segm": {"AP": 60.0, "AP50": 0.25}}] * 2)
    trainer = trainer_of(tiny_config(folder, tmp_path / "out", *options, test=[folder]), resume=True)
    with EventStorage():
        trainer.train()
    assert (best_of(trainer).best_metric, best_of(trainer).best_steps) == (best, 4)
    assert torch.load(tmp_path / "out/model_best.pth")["value"] == best


def test_a_finished_run_that_is_made_longer_keeps_its_best(
    tiny_folder: Callable[..., Path], tmp_path: Path, evaluated: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its last evaluation came after its last checkpoint."""
    folder, out = tiny_folder(), tmp_path / "out"
    options = ("TEST.EVAL_PERIOD", 5, "SOLVER.MAX_ITER")
    evaluated({"segm": {"AP": 50.0}})
    trainer_of(tiny_config(folder, out, *options, 3, test=[folder])).train()
    best = (out / "model_best.pth").read_bytes()
    evaluated({"segm": {"AP": 20.0}}, {"segm": {"AP": 30.0}})
    longer = trainer_of(tiny_config(folder, out, *options, 6, test=[folder]), resume=True)
    with caplog.at_level(logging.INFO):
        longer.train()
    assert longer.start_iter == 3 and (best_of(longer).best_metric, best_of(longer).best_steps) == (50.0, 3)
    assert (out / "model_best.pth").read_bytes() == best
    assert "segm/AP is 30, not better than the 50 after 3 steps" in caplog.text
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    found = [(line["iteration"], line["segm/AP"]) for line in lines if "segm/AP" in line]
    assert found == [(3, 50.0), (4, 20.0), (6, 30.0)]


def test_the_same_evaluation_again_is_no_news(
    tiny_folder: Callable[..., Path], tmp_path: Path, evaluated: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder, out = tiny_folder(), tmp_path / "out"
    evaluated(*[{"segm": {"AP": 50.0}}] * 3)
    trainer_of(tiny_config(folder, out, "TEST.EVAL_PERIOD", 3, "SOLVER.MAX_ITER", 3, test=[folder])).train()
    longer = tiny_config(folder, out, "TEST.EVAL_PERIOD", 3, "SOLVER.MAX_ITER", 4, test=[folder])
    with caplog.at_level(logging.INFO):
        trainer_of(longer, resume=True).train()
    assert "First the evaluation after step 3" in caplog.text
    assert caplog.text.count("not better than") == 1  # after step 4


def test_a_best_checkpoint_that_cannot_be_read_is_replaced(
    tiny_folder: Callable[..., Path], tmp_path: Path, evaluated: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder, out = tiny_folder(), tmp_path / "out"
    evaluated({"segm": {"AP": 50.0}}, {"segm": {"AP": 20.0}})
    trainer_of(tiny_config(folder, out, "SOLVER.MAX_ITER", 1, test=[folder])).train()
    (out / "model_best.pth").write_bytes(b"half of it")
    with caplog.at_level(logging.WARNING):
        trainer_of(tiny_config(folder, out, "SOLVER.MAX_ITER", 2, test=[folder]), resume=True).train()
    assert "model_best.pth: not a readable checkpoint" in caplog.text
    assert torch.load(out / "model_best.pth")["value"] == 20.0
