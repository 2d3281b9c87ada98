"""Schedules by number, plateaus, and how long a training is."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from ramses_d2.config import load_config
from ramses_d2.data.catalog import register_datasets
from ramses_d2.engine.solver import PlateauScheduler, build_lr_scheduler, settle_iterations
from ramses_d2.engine.trainer import RamsesTrainer
from ramses_d2.errors import RamsesError

TINY_YAML = str(Path(__file__).parents[1] / "ramses_tiny.yaml")
PLATEAU = ["SOLVER.LR_SCHEDULER_NAME", "ReduceOnPlateau"]


def config(*overrides: object) -> CfgNode:
    settings = ["SOLVER.MAX_ITER", 100, "SOLVER.WARMUP_ITERS", 10, "SOLVER.WARMUP_FACTOR", 0.1, *overrides]
    return load_config(TINY_YAML, settings)


def optimizer_of_two_rates() -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 0.5)]
    return torch.optim.SGD(groups, lr=1.0)


def build(*overrides: object) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = optimizer_of_two_rates()
    return optimizer, build_lr_scheduler(config(*overrides), optimizer)


def advance(optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> None:
    for _ in range(steps):
        optimizer.step()
        scheduler.step()


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def test_warm_up_and_cosine_is_the_default() -> None:
    assert config().SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR"
    optimizer, scheduler = build()
    found = []
    for _ in range(100):
        found.append(rates(optimizer)[0])
        advance(optimizer, scheduler, 1)
    assert found[0] == pytest.approx(0.1)
    cosine = [0.5 * (1 + math.cos(math.pi * step / 100)) for step in range(100)]
    assert found[5] == pytest.approx((0.1 + cosine[10]) / 2)
    assert found[10:] == pytest.approx(cosine[10:])


def test_warm_up_and_steps() -> None:
    steps = ["SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", (40, 80), "SOLVER.GAMMA", 0.1]
    optimizer, scheduler = build(*steps)
    advance(optimizer, scheduler, 39)
    assert rates(optimizer) == pytest.approx([1.0, 0.5])
    advance(optimizer, scheduler, 1)
    assert rates(optimizer) == pytest.approx([0.1, 0.05])
    advance(optimizer, scheduler, 40)
    assert rates(optimizer) == pytest.approx([0.01, 0.005])


def test_a_plateau_halves_all_rates_down_to_the_smallest() -> None:
    options = ["SOLVER.PLATEAU.PATIENCE", 1, "SOLVER.PLATEAU.FACTOR", 0.5, "SOLVER.PLATEAU.MIN_FACTOR", 0.2]
    optimizer, scheduler = build(*PLATEAU, *options)
    assert rates(optimizer) == pytest.approx([0.1, 0.05])
    advance(optimizer, scheduler, 5)
    assert rates(optimizer) == pytest.approx([0.55, 0.275])
    advance(optimizer, scheduler, 5)
    found = []
    for value in [3.0, 3.5, 3.5, 3.4, 3.4, 3.4, math.nan, 3.0, 2.0, 1.0]:
        scheduler.evaluate_predictions(value)
        found.append(rates(optimizer)[0])
        advance(optimizer, scheduler, 1)
        assert rates(optimizer) == [found[-1], found[-1] / 2]
    # One evaluation without improvement is waited for, the second one lowers the rate
    assert found == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]


def test_a_plateau_of_an_error_is_low() -> None:
    optimizer, scheduler = build(*PLATEAU, "SOLVER.PLATEAU.MODE", "min", "SOLVER.PLATEAU.PATIENCE", 0)
    advance(optimizer, scheduler, 10)
    for value, expected in [(3.0, 1.0), (2.0, 1.0), (2.0, 0.5), (1.0, 0.5), (1.5, 0.25)]:
        scheduler.evaluate_predictions(value)
        assert rates(optimizer)[0] == expected


def test_the_warm_up_goes_on_when_the_rate_falls_during_it() -> None:
    optimizer, scheduler = build(*PLATEAU, "SOLVER.PLATEAU.PATIENCE", 0)
    for value in (1.0, 1.0):
        scheduler.evaluate_predictions(value)
    assert rates(optimizer)[0] == pytest.approx(0.05)
    advance(optimizer, scheduler, 50)
    assert rates(optimizer) == pytest.approx([0.5, 0.25])


def test_a_plateau_goes_on_from_its_state() -> None:
    options = [*PLATEAU, "SOLVER.PLATEAU.PATIENCE", 2]
    (one, first), (two, second) = build(*options), build(*options)
    values = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    for index, value in enumerate(values):
        advance(one, first, 3)
        first.evaluate_predictions(value)
        if index == 4:  # in the middle of waiting, with a rate that has fallen
            second.load_state_dict(first.state_dict())
            two.load_state_dict(one.state_dict())
        elif index > 4:
            advance(two, second, 3)
            second.evaluate_predictions(value)
        if index >= 4:
            assert rates(one) == rates(two) and first.state_dict() == second.state_dict()
    assert first.multiplier == 0.25 and isinstance(first, PlateauScheduler)


@pytest.mark.parametrize("change", [["SOLVER.PLATEAU.MODE", "min"], ["SOLVER.PLATEAU.METRIC", "mass/MAPE"]])
def test_a_plateau_by_another_measure_begins_anew_at_the_rate_there_is(change: list[object]) -> None:
    options = [*PLATEAU, "SOLVER.PLATEAU.PATIENCE", 1]
    one, first = build(*options)
    advance(one, first, 20)
    for value in (5.0, 4.0, 3.0, 2.0):
        first.evaluate_predictions(value)
    other, second = build(*options, *change)
    fresh = second.state_dict()["plateau"]
    second.load_state_dict(first.state_dict())
    assert second.state_dict()["plateau"] == fresh != first.state_dict()["plateau"]
    assert first.multiplier == second.multiplier == 0.5
    second.evaluate_predictions(100.0)
    assert second.multiplier == 0.5


def test_a_run_begun_with_another_schedule_can_go_on_with_a_plateau() -> None:
    optimizer, cosine = build()
    advance(optimizer, cosine, 20)
    other, plateau = build(*PLATEAU)
    plateau.load_state_dict(cosine.state_dict())
    advance(other, plateau, 1)
    assert plateau.last_epoch == 21 and rates(other) == [1.0, 0.5]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.LR_SCHEDULER_NAME", "Cosine"], "Cosine.*WarmupCosineLR, WarmupMultiStepLR, ReduceOnPlateau"),
        (["SOLVER.WARMUP_METHOD", "slow"], "linear or constant"),
        ([*PLATEAU, "SOLVER.PLATEAU.MODE", "more"], "max or min"),
        ([*PLATEAU, "SOLVER.PLATEAU.FACTOR", 1.0], "FACTOR"),
        ([*PLATEAU, "SOLVER.PLATEAU.PATIENCE", -1], "PATIENCE"),
    ],
)
def test_wrong_settings_are_one_line(overrides: list[object], message: str) -> None:
    with pytest.raises(RamsesError, match=message) as error:
        build(*overrides)
    assert "\n" not in str(error.value)


def test_epochs_become_steps(caplog: pytest.LogCaptureFixture) -> None:
    cfg = config("SOLVER.MAX_EPOCHS", 3, "SOLVER.IMS_PER_BATCH", 8)
    with caplog.at_level(logging.INFO, "ramses_d2"):
        settle_iterations(cfg, 101)
    assert cfg.SOLVER.MAX_ITER == 38  # 37.875
    assert "3 epochs of 101 images in batches of 8: SOLVER.MAX_ITER is 38" in caplog.text
    settle_iterations(cfg, 101)  # as a resume does, with the config that the first run wrote
    assert cfg.SOLVER.MAX_ITER == 38


def test_without_epochs_the_steps_stay(caplog: pytest.LogCaptureFixture) -> None:
    cfg = config()
    settle_iterations(cfg, 7)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (100, 10) and not caplog.records


def test_a_warm_up_longer_than_the_training_is_shortened(caplog: pytest.LogCaptureFixture) -> None:
    """Detectron2 would climb to the end of the cosine, which is 0."""
    cfg = config("SOLVER.MAX_ITER", 40, "SOLVER.WARMUP_ITERS", 500)
    settle_iterations(cfg, 7)
    assert cfg.SOLVER.WARMUP_ITERS == 4
    assert "WARMUP_ITERS is 500, the training has 40 steps: warm-up shortened to 4" in caplog.text


@pytest.mark.parametrize(("key", "value"), [("MAX_EPOCHS", -1), ("MAX_ITER", 0)])
def test_a_training_without_steps_is_an_error(key: str, value: int) -> None:
    with pytest.raises(RamsesError, match=f"SOLVER.{key} is {value}"):
        settle_iterations(config(f"SOLVER.{key}", value), 7)


def test_a_script_that_builds_the_trainer_itself_has_epochs_too(
    tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    cfg = load_config(TINY_YAML, ["SOLVER.MAX_EPOCHS", "3", "SOLVER.IMS_PER_BATCH", "2", "OUTPUT_DIR", str(tmp_path)])
    cfg.DATASETS.TRAIN = (f"ramses://{tiny_folder(sizes=[(64, 96)] * 5)}",)
    register_datasets(cfg.DATASETS.TRAIN)
    cfg.DATASETS.TEST = ()
    cfg.freeze()
    trainer = RamsesTrainer(cfg)
    assert trainer.max_iter == trainer.cfg.SOLVER.MAX_ITER == 8
