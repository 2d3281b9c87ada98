"""Evaluations and what follows from them, averaged weights and areal densities, in trainings and by number."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import CfgNode
from detectron2.engine.hooks import PeriodicWriter
from detectron2.modeling import build_model
from torch import nn

from ramses_d2.checkpoint.load import load_weights
from ramses_d2.config import load_config
from ramses_d2.data.catalog import register_datasets
from ramses_d2.data.folder import load_folder
from ramses_d2.engine.hooks import BestCheckpoint, EarlyStopping, EmaWeights, Evaluation, fit_densities
from ramses_d2.engine.trainer import RamsesTrainer
from ramses_d2.errors import RamsesError
from tests.conftest import GRAMS_PER_MM2
from tests.engine.conftest import ROOT, Results, assert_same, hook_of, tiny_config, train, trainer_of

Config = Callable[..., CfgNode]
STOPPING = ("SOLVER.EARLY_STOPPING.PATIENCE", 3)
LENGTH = ("SOLVER.MAX_ITER", 10, "TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 3)


def ap(values: dict[int, float]) -> Callable[[int], Results]:
    """Evaluations by the steps done; 0 where there is none."""
    return lambda steps: {"segm": {"AP": values.get(steps, 0.0)}}


FALLING = ap({2: 10.0, 4: 9.0, 6: 8.0, 8: 7.0, 10: 20.0})


def metric_lines(out: Path, metric: str = "segm/AP") -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    return [(line["iteration"], line[metric]) for line in lines if metric in line]


def best_of(trainer: RamsesTrainer) -> tuple[float | None, int | None]:
    hook = hook_of(trainer, BestCheckpoint)
    return hook.best_metric, hook.best_steps


# ---- the best checkpoint


@pytest.mark.parametrize(("mode", "best"), [("max", 2), ("min", 1)])
def test_the_best_by_a_metric_of_choice(config: Config, tmp_path: Path, mode: str, best: int) -> None:
    values = {1: float("nan"), 2: 3.0, 3: 7.0, 4: 5.0}
    cfg = config("TEST.EVAL_PERIOD", 1, "TEST.BEST_METRIC", "mass/MAPE", "TEST.BEST_MODE", mode)
    trainer = train(cfg, script=lambda steps: {"segm": {"AP": 1.0}, "mass": {"MAPE": values[steps]}})
    assert best_of(trainer) == (values[best + 1], best + 1)
    saved = torch.load(tmp_path / "out/model_best.pth")
    assert (saved["iteration"], saved["metric"], saved["mode"]) == (best, "mass/MAPE", mode)
    assert (tmp_path / "out/last_checkpoint").read_text() == "model_final.pth"


@pytest.mark.parametrize(("metric", "averaged"), [("ema/segm/AP", True), ("x://ema/segm/AP", False)])
def test_of_averaged_weights_these_are_kept(config: Config, tmp_path: Path, metric: str, averaged: bool) -> None:
    cfg = config("SOLVER.EMA_DECAY", 0.9, "TEST.BEST_METRIC", metric, "SOLVER.MAX_ITER", 2)
    trainer = train(cfg, script=lambda _: {"segm": {"AP": 1.0}} if averaged else {"x://ema": {"segm/AP": 1.0}})
    kept = torch.load(tmp_path / "out/model_best.pth")["model"]
    own, average = trainer.model.state_dict(), trainer.ema.module.state_dict()
    assert_same(dict(kept), dict(average if averaged else own))
    assert any(not torch.equal(own[name], average[name]) for name in own)


@pytest.mark.parametrize(
    ("change", "best"),
    [(("BEST_METRIC", "segm/AP50"), (0.25, 4)), (("BEST_MODE", "min"), (60.0, 4)), (None, (70.0, 6))],
)
def test_scores_by_another_measure_are_not_compared(config: Config, tmp_path: Path, change: Any, best: tuple) -> None:
    train(config("TEST.EVAL_PERIOD", 2), script=lambda _: {"segm": {"AP": 65.0, "AP50": 0.5}})
    options = (f"TEST.{change[0]}", change[1]) if change else ()
    values = {4: {"AP": 60.0, "AP50": 0.25}, 6: {"AP": 70.0, "AP50": 0.2}}
    cfg = config("TEST.EVAL_PERIOD", 2, *options, "SOLVER.MAX_ITER", 6)
    trainer = train(cfg, resume=True, script=lambda steps: {"segm": values[steps]})
    assert best_of(trainer) == best
    assert torch.load(tmp_path / "out/model_best.pth")["value"] == best[0]


def test_a_finished_run_that_is_made_longer_keeps_its_best(config: Config, tmp_path: Path, caplog: Any) -> None:
    """Its last evaluation came after its last checkpoint; its checkpoint is the last one, not the best one."""
    out, options = tmp_path / "out", ("TEST.EVAL_PERIOD", 5, "SOLVER.MAX_ITER")
    train(config(*options, 3), script=ap({3: 50.0}))
    before = (out / "model_best.pth").read_bytes()
    with caplog.at_level(logging.INFO):
        longer = train(config(*options, 6), resume=True, script=ap({5: 20.0, 6: 30.0}))
    assert longer.start_iter == 3 and best_of(longer) == (50.0, 3)
    assert (out / "model_best.pth").read_bytes() == before
    assert "segm/AP is 30, not better than the 50 after 3 steps" in caplog.text
    # The evaluation at an end counts as one step later
    assert metric_lines(out) == [(3, 50.0), (4, 20.0), (6, 30.0)]


def test_the_same_evaluation_again_is_no_news(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    script = ap({3: 50.0, 4: 50.0})
    train(config("TEST.EVAL_PERIOD", 3, "SOLVER.MAX_ITER", 3), script=script)
    with caplog.at_level(logging.INFO):
        train(config("TEST.EVAL_PERIOD", 3, "SOLVER.MAX_ITER", 4), resume=True, script=script)
    assert "First the evaluation after step 3" in caplog.text
    assert caplog.text.count("not better than") == 1  # after step 4


def test_a_best_checkpoint_that_cannot_be_read_is_replaced(config: Config, tmp_path: Path, caplog: Any) -> None:
    best, script = tmp_path / "out/model_best.pth", ap({1: 50.0, 2: 20.0})
    train(config("SOLVER.MAX_ITER", 1), script=script)
    best.write_bytes(b"half of it")
    with caplog.at_level(logging.WARNING):
        train(config("SOLVER.MAX_ITER", 2), resume=True, script=script)
    assert "model_best.pth" in caplog.text and torch.load(best)["value"] == 20.0


# ---- early stopping, and evaluations


@pytest.mark.parametrize(
    ("cut", "in_evaluation", "begin"),
    # After an evaluation that no checkpoint knows of, in the middle of it, and between two evaluations
    [(7, None, 6), (None, 6, 6), (4, None, 3)],
)
def test_interrupted_anywhere_the_run_ends_the_same(
    config: Config, tmp_path: Path, cut: int | None, in_evaluation: int | None, begin: int
) -> None:
    options = (*LENGTH, *STOPPING, "SOLVER.EMA_DECAY", 0.5)
    assert train(config(*options, output="whole"), script=FALLING).iter == 8
    train(config(*options), script=FALLING, cut=cut, cut_in_evaluation=in_evaluation)
    assert train(config(*options), script=FALLING, resume=True, seed=99).start_iter == begin
    for name in ("model_final.pth", "model_final_ema.pth"):
        assert_same(*(torch.load(tmp_path / run / name, weights_only=False) for run in ("out", "whole")))


def test_early_stopping_ends_a_training_as_if_it_were_done(config: Config, tmp_path: Path, caplog: Any) -> None:
    out = tmp_path / "out"
    with caplog.at_level(logging.INFO):
        trainer = train(config(*LENGTH, *STOPPING), script=FALLING)
    assert trainer.iter == trainer.max_iter == 8
    assert [steps for steps, _ in trainer.seen] == [2, 4, 6, 8]  # the last one only once
    assert "ends after 8 of 10 steps: segm/AP has not improved for 3 evaluations" in caplog.text
    assert "the best was 10 after 2 steps" in caplog.text and "Exception during training" not in caplog.text
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    assert torch.load(out / "model_final.pth", weights_only=False)["iteration"] == 7
    assert metric_lines(out)[-1] == (7, 7.0)
    assert caplog.text.count("not better than the 10 after 2 steps") == 3
    caplog.clear()
    again = train(config(*LENGTH, *STOPPING), resume=True, script=FALLING)
    assert again.iter == 8 and again.seen == [] and "not better than" not in caplog.text
    patient = train(config(*LENGTH, "SOLVER.EARLY_STOPPING.PATIENCE", 6), resume=True, script=FALLING)
    assert patient.iter == 10 and [steps for steps, _ in patient.seen] == [10]


@pytest.mark.parametrize(("delta", "end"), [(5.0, 6), (2.0, 6), (1.5, 10)])
def test_an_improvement_must_exceed_the_smallest_one_that_counts(
    config: Config, caplog: pytest.LogCaptureFixture, delta: float, end: int
) -> None:
    caplog.set_level(logging.INFO)
    options = ("SOLVER.EARLY_STOPPING.PATIENCE", 2, "SOLVER.EARLY_STOPPING.MIN_DELTA", delta, "TEST.BEST_MODE", "min")
    script = ap({2: 10.0, 4: 9.0, 6: 8.0, 8: 6.5, 10: 6.0})
    assert train(config(*LENGTH, *options), script=script).iter == end
    if delta == 5.0:  # 8 after 6 steps is the best: it must not be said of the 10
        assert "not improved by more than 5 for 2" in caplog.text and "compared with 10 after 2 steps" in caplog.text


@pytest.mark.parametrize("change", [{}, {"metric": "segm/AP50"}, {"mode": "min"}])
def test_a_wait_by_another_measure_is_forgotten(change: dict[str, str]) -> None:
    by = {"metric": "segm/AP", "mode": "max", "patience": 5, "min_delta": 0.0}
    one, other = EarlyStopping(None, **by), EarlyStopping(None, **(by | change))
    other.load_state_dict(one.state_dict() | {"best": 7.0, "best_step": 3, "waited": 4})
    assert (other.state_dict()["waited"], other.state_dict()["best_step"]) == ((0, 0) if change else (4, 3))


def test_of_several_test_sets_the_first_is_meant(folder: Path, tiny_folder: Any, config: Config) -> None:
    cfg = config(*LENGTH, *STOPPING, test=[folder, tiny_folder(name="other")])
    evaluation = hook_of(trainer_of(cfg), Evaluation)
    first, second = cfg.DATASETS.TEST
    cinema = "segm/AP-cinema/seat"
    evaluation.results = {f"{first}/segm/AP": 1.0, f"{second}/segm/AP": 2.0, f"ema/{first}/segm/AP": 3.0}
    evaluation.results |= {f"{first}/{cinema}": 4.0, f"ema/{first}/{cinema}": 5.0}
    names = ("segm/AP", f"{second}/segm/AP", "ema/segm/AP", cinema, f"ema/{cinema}")
    assert [evaluation.metric(name) for name in names] == [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("TEST.BEST_METRIC", "segm/ap"), 'TEST.BEST_METRIC is "segm/ap".* segm/AP$'),
        ((*STOPPING, "TEST.BEST_METRIC", "segm/PA"), 'TEST.BEST_METRIC is "segm/PA".* segm/AP$'),
        ((*STOPPING, "TEST.EVAL_PERIOD", 0), "SOLVER.EARLY_STOPPING .*TEST.EVAL_PERIOD"),
        ((*STOPPING, "DATASETS.TEST", "()"), "SOLVER.EARLY_STOPPING .*DATASETS.TEST"),
    ],
)
def test_what_cannot_be_followed_is_one_line(config: Config, overrides: tuple, message: str) -> None:
    with pytest.raises(RamsesError, match=message) as error:
        train(config(*LENGTH, *overrides), script=FALLING)
    assert "\n" not in str(error.value)


def test_the_order_of_the_hooks(config: Config) -> None:
    options = (*LENGTH, *STOPPING, "SOLVER.EMA_DECAY", 0.9, "VIS_PERIOD", 1, "MODEL.RAMSES.MASS.DENSITY", True)
    all_hooks = trainer_of(config(*options, "MODEL.RAMSES.MASS.ENABLED", False)).all_hooks
    expected = ["FitArealDensity", "IterationTimer", "LRScheduler", "EmaUpdate", "LossRows", "PeriodicCheckpointer"]
    expected += ["Evaluation", "BestCheckpoint", "EarlyStopping", "MetricRows", "TrainingImages", "MetricsWriter"]
    assert [type(hook).__name__ for hook in all_hooks if hook] == expected and isinstance(all_hooks[-1], PeriodicWriter)


def on_a_rank(rank: int, folder: Path, output: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{output}/rendezvous", rank=rank, world_size=2)
    options = (*LENGTH, "SOLVER.EARLY_STOPPING.PATIENCE", 2, "SOLVER.EMA_DECAY", 0.9)
    cfg = tiny_config(folder, output, *options, test=[folder])
    trainer = train(cfg, script=(lambda _: {}) if rank else FALLING)  # only the main process has results
    state = {"weights": trainer.model.module.state_dict(), "ema": trainer.ema.state_dict(), "steps": trainer.iter}
    torch.save(state, output / f"rank{rank}.pth")
    dist.destroy_process_group()


def test_all_ranks_stop_at_the_same_step(folder: Path, tmp_path: Path) -> None:
    mp.spawn(on_a_rank, args=(folder, tmp_path), nprocs=2)
    one, two = (torch.load(tmp_path / f"rank{rank}.pth", weights_only=False) for rank in range(2))
    assert one["steps"] == 6
    assert_same(one, two)


# ---- averaged weights


def set_weights(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        model[0].weight.fill_(value)
        model[1].running_mean.fill_(value)
        model[1].num_batches_tracked.fill_(int(value))


def test_the_average_by_number() -> None:
    """And an average goes on from its state, in a network that may be wrapped for several processes."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
    set_weights(model, 1.0)
    wrapper = nn.Module()
    wrapper.module = model
    ema, resumed = EmaWeights(wrapper, 0.25), EmaWeights(model, 0.25)
    assert ema.module.state_dict().keys() == model.state_dict().keys()
    expected = torch.ones(1, 2)
    for update, value in enumerate([2.0, 4.0, 8.0, 16.0, 0.3, 0.7]):
        set_weights(model, value)
        ema.update(wrapper)
        kept = min(0.25, (1 + update) / (10 + update))  # 0.1, 0.18, 0.25, 0.25, ...
        expected.lerp_(torch.full((1, 2), value), 1 - kept)
        assert torch.equal(ema.module[0].weight.detach(), expected)
        # Buffers are those of the network
        assert ema.module[1].running_mean == np.float32(value) and ema.module[1].num_batches_tracked == int(value)
        if update == 3:
            resumed.load_state_dict(ema.state_dict())
        elif update > 3:
            resumed.update(model)
            assert_same(resumed.state_dict(), ema.state_dict())


def test_averaged_weights_are_evaluated_saved_and_usable(config: Config, tmp_path: Path, monkeypatch: Any) -> None:
    output = tmp_path / "out"
    cfg = config("SOLVER.EMA_DECAY", 0.9, "TEST.BEST_METRIC", "ema/segm/AP", "TEST.WORST_PICTURES", 0)
    evaluated = []
    test = RamsesTrainer.test.__func__

    def spy(cls: type, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        evaluated.append({name: value.clone() for name, value in model.state_dict().items()})
        return test(cls, cfg, model, evaluators)

    monkeypatch.setattr(RamsesTrainer, "test", classmethod(spy))
    trainer = train(cfg)
    results = hook_of(trainer, Evaluation).results
    assert {"segm/AP", "ema/segm/AP", "bbox/AP", "ema/bbox/AP"} <= results.keys()
    assert (output / "ema/evaluation.json").is_file() and metric_lines(output, "ema/segm/AP")
    model = build_model(cfg)
    load_weights(model, str(output / "model_final_ema.pth"))
    raw, averaged = evaluated[-2:]
    assert_same(dict(model.state_dict()), averaged)
    assert_same(dict(trainer.model.state_dict()), raw)
    assert not torch.equal(raw["mask_head.mask_out.weight"], averaged["mask_head.mask_out.weight"])
    assert torch.load(output / "model_0000001.pth", weights_only=False)["ema"]["updates"] == 2


def test_weights_loaded_at_the_start_are_where_the_average_starts(config: Config, tmp_path: Path) -> None:
    cfg = config("SOLVER.EMA_DECAY", 0.9, "SOLVER.BASE_LR", 0.0, test=[])
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "first.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "first.pth")
    train(cfg, seed=77)
    final = torch.load(tmp_path / "out/model_final_ema.pth")["model"]
    torch.testing.assert_close(final, torch.load(tmp_path / "first.pth")["model"])


# ---- areal densities


def dataset_dicts(masses: dict[int, list[float]], resolution: float = 2.0) -> list[dict[str, Any]]:
    """A dataset dict of particles of 40 px: class id -> masses."""
    particles = [
        {"category_id": class_id, "mass": mass, "area": 40.0, "label": 1}
        for class_id, of_class in masses.items()
        for mass in of_class
    ]
    return [{"file_name": "a", "resolution": resolution, "annotations": particles}]


def test_the_best_constant_of_each_class(folder: Path) -> None:
    """40 px at 2 px/mm are 10 mm2; no density on a fine grid has a smaller MAPE than the one found."""
    assert fit_densities(load_folder(folder)[0], 3) == pytest.approx(GRAMS_PER_MM2 * np.arange(1, 4))
    masses = {0: [1.0, 2.0, 4.0, 4.5], 2: [7.0]}
    found = fit_densities(dataset_dicts(masses), 4)
    assert found[2] == pytest.approx(0.7) and found[1] == found[3]
    for class_id, truth in ((0, masses[0]), (1, masses[0] + masses[2])):  # class 1 has no truth: that of all
        grid = np.linspace(0.01, 1, 2000)
        errors = [np.mean(np.abs(10 * density - truth) / truth) for density in grid]
        assert np.mean(np.abs(10 * found[class_id] - truth) / truth) <= min(errors) + 1e-9
    assert fit_densities(dataset_dicts({0: [np.nan]}), 2).tolist() == [0, 0]
    assert fit_densities(dataset_dicts({0: [1.0]}, resolution=np.nan), 2).tolist() == [0, 0]


def solov2(folder: Path, output: Path, steps: int) -> CfgNode:
    uri = f"('ramses://{folder}',)"
    sets = ["DATASETS.TRAIN", uri, "DATASETS.TEST", uri, "OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", steps]
    cfg = load_config(str(ROOT / "tests/solov2_tiny.yaml"), ["MODEL.RAMSES.MASS.DENSITY", "True", *sets])
    register_datasets(cfg.DATASETS.TRAIN)
    output.mkdir(exist_ok=True)
    return cfg


def test_a_training_predicts_masses_by_area(folder: Path, tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Plain SOLOv2; a resumed training keeps its densities although the ground truth has changed."""
    expected = pytest.approx(GRAMS_PER_MM2 * np.arange(1, 4))
    trainer = train(solov2(folder, tmp_path / "out", 1))
    assert trainer.model.areal_density.grams_per_mm2.tolist() == expected
    resumed = train(solov2(tiny_folder(name="elsewhere", nan_masses=True), tmp_path / "out", 2), resume=True)
    assert resumed.start_iter == 1 and resumed.model.areal_density.grams_per_mm2.tolist() == expected


def test_without_masses_to_learn_from_there_are_none(tiny_folder: Any, tmp_path: Path, caplog: Any) -> None:
    trainer = train(solov2(tiny_folder(nan_masses=True), tmp_path / "out", 1))
    assert not trainer.model.areal_density.is_known and "no masses are predicted" in caplog.text
    assert "mass" not in json.loads((tmp_path / "out/evaluation.json").read_text())
