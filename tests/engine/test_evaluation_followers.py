"""Early stopping and averaged weights in a training, uninterrupted and resumed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.modeling import build_model
from torch import nn

from ramses_d2.checkpoint.load import load_weights
from ramses_d2.engine.hooks import BestCheckpoint, EarlyStopping, Evaluation
from ramses_d2.engine.trainer import RamsesTrainer
from ramses_d2.errors import RamsesError
from tests.engine.training import tiny_config, trainer_of

# AP after step 2, 4, ...
SCRIPT = {2: 10.0, 4: 9.0, 6: 8.0, 8: 7.0, 10: 20.0}
STOPPING = ("SOLVER.EARLY_STOPPING.PATIENCE", 3)
LENGTH = ("SOLVER.MAX_ITER", 10, "TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 3)


class Scripted(RamsesTrainer):
    """Evaluates to ``SCRIPT``; ``seen`` has the step and the folder of every evaluation."""

    seen: list[tuple[int, str]]
    cut_in_evaluation: int | None = None

    def _evaluate(self) -> dict[str, Any]:
        if self.cut_in_evaluation == self.iter + 1:
            raise InterruptedError
        return super()._evaluate()

    def test(self, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, dict[str, float]]:
        steps = min(self.iter + 1, self.max_iter)
        self.seen.append((steps, Path(cfg.OUTPUT_DIR).name))
        return {"segm": {"AP": SCRIPT.get(steps, 0.0)}}


class PowerCut(HookBase):
    def __init__(self, step: int) -> None:
        self.step = step

    def before_step(self) -> None:
        if self.trainer.iter == self.step:
            raise InterruptedError


@pytest.fixture
def folder(tiny_folder: Callable[..., Path]) -> Path:
    return tiny_folder(sizes=[(64, 96)] * 3, count=[4, 6, 0])


def start(cfg: CfgNode, *, resume: bool = False, seed: int = 1) -> Scripted:
    torch.manual_seed(seed)
    trainer = Scripted(cfg)
    trainer.seen = []
    trainer.resume_or_load(resume=resume)
    return trainer


def run(cfg: CfgNode, **options: Any) -> Scripted:
    trainer = start(cfg, **options)
    trainer.train()
    return trainer


def hook_of(trainer: RamsesTrainer, kind: type) -> Any:
    (found,) = (hook for hook in trainer._hooks if type(hook) is kind)
    return found


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal to the last bit, tensors in any nesting."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}.{index}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other or (one != one and other != other), where


@pytest.mark.parametrize(
    ("name", "cut", "in_evaluation", "begin"),
    # After an evaluation that no checkpoint knows of, in the middle of it, and between two evaluations
    [("later", 7, None, 6), ("in it", None, 6, 6), ("between", 4, None, 3)],
)
def test_interrupted_anywhere_the_run_ends_the_same(
    folder: Path, tmp_path: Path, name: str, cut: int | None, in_evaluation: int | None, begin: int
) -> None:
    options = (*LENGTH, *STOPPING, "SOLVER.EMA_DECAY", 0.5)
    whole = run(tiny_config(folder, tmp_path / "whole", *options, test=[folder]))
    assert whole.iter == 8
    expected = torch.load(tmp_path / "whole/model_final.pth", weights_only=False)
    cfg = tiny_config(folder, tmp_path / name, *options, test=[folder])
    trainer = start(cfg)
    trainer.cut_in_evaluation = in_evaluation
    if cut is not None:
        trainer.register_hooks([PowerCut(cut)])
    with pytest.raises(InterruptedError):
        trainer.train()
    resumed = start(cfg, resume=True, seed=99)
    assert resumed.start_iter == begin
    resumed.train()
    assert_same(torch.load(tmp_path / name / "model_final.pth", weights_only=False), expected)
    ours, theirs = (torch.load(tmp_path / which / "model_final_ema.pth")["model"] for which in (name, "whole"))
    assert_same(ours, theirs)


def test_early_stopping_ends_cleanly_and_for_good(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out"
    cfg = tiny_config(folder, output, *LENGTH, *STOPPING, test=[folder])
    finished = []

    class Last(HookBase):
        def after_train(self) -> None:
            finished.append((self.trainer.iter, self.trainer.max_iter))

    trainer = start(cfg)
    trainer.register_hooks([Last()])
    with caplog.at_level(logging.INFO):
        trainer.train()
    assert finished == [(8, 8)]
    assert [steps for steps, _ in trainer.seen] == [2, 4, 6, 8]  # the last one only once
    assert "ends after 8 of 10 steps: segm/AP has not improved for 3 evaluations" in caplog.text
    assert "the best was 10 after 2 steps" in caplog.text and "Exception during training" not in caplog.text
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    assert torch.load(output / "model_final.pth", weights_only=False)["iteration"] == 7
    assert '"segm/AP": 7.0' in (output / "metrics.json").read_text()

    assert caplog.text.count("not better than the 10 after 2 steps") == 3
    caplog.clear()
    again = run(cfg, resume=True)
    assert again.iter == 8 and again.seen == [] and "not better than" not in caplog.text
    patient = run(tiny_config(folder, output, *LENGTH, "SOLVER.EARLY_STOPPING.PATIENCE", 6, test=[folder]), resume=True)
    assert patient.iter == 10 and [steps for steps, _ in patient.seen] == [10]


def test_an_improvement_must_exceed_the_smallest_one_that_counts(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    options = ("SOLVER.EARLY_STOPPING.PATIENCE", 2, "SOLVER.EARLY_STOPPING.MIN_DELTA", 5.0, "TEST.BEST_MODE", "min")
    assert run(tiny_config(folder, tmp_path / "out", *LENGTH, *options, test=[folder])).iter == 6
    # 8 after 6 steps is the best: it must not be said of the 10
    assert "has not improved by more than 5 for 2 evaluations" in caplog.text
    assert "; compared with 10 after 2 steps" in caplog.text and "the best was" not in caplog.text


@pytest.mark.parametrize("change", [{}, {"metric": "segm/AP50"}, {"mode": "min"}])
def test_a_wait_by_another_measure_is_forgotten(change: dict[str, str]) -> None:
    by = {"metric": "segm/AP", "mode": "max", "patience": 5, "min_delta": 0.0}
    one, other = EarlyStopping(None, **by), EarlyStopping(None, **(by | change))
    state = one.state_dict() | {"best": 7.0, "best_step": 3, "waited": 4}
    other.load_state_dict(state)
    assert (other.state_dict()["waited"], other.state_dict()["best_step"]) == ((0, 0) if change else (4, 3))


def test_averaged_weights_are_evaluated_saved_and_usable(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    options = ("SOLVER.EMA_DECAY", 0.9, "TEST.BEST_METRIC", "ema/segm/AP", "TEST.WORST_PICTURES", 0)
    cfg = tiny_config(folder, output, *options, test=[folder])
    evaluated = []
    test = RamsesTrainer.test.__func__

    def spy(cls: type, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        evaluated.append({name: value.clone() for name, value in model.state_dict().items()})
        return test(cls, cfg, model, evaluators)

    monkeypatch.setattr(RamsesTrainer, "test", classmethod(spy))
    trainer = trainer_of(cfg)
    trainer.train()
    results = hook_of(trainer, Evaluation).results
    assert {"segm/AP", "ema/segm/AP", "bbox/AP", "ema/bbox/AP"} <= results.keys()
    assert (output / "ema/evaluation.json").is_file() and '"ema/segm/AP"' in (output / "metrics.json").read_text()
    model = build_model(cfg)
    load_weights(model, str(output / "model_final_ema.pth"))
    raw, averaged = evaluated[-2:]
    assert_same(dict(model.state_dict()), averaged)
    assert_same(dict(trainer.model.state_dict()), raw)
    assert not torch.equal(raw["mask_head.mask_out.weight"], averaged["mask_head.mask_out.weight"])
    assert torch.load(output / "model_0000001.pth", weights_only=False)["ema"]["updates"] == 2


def test_weights_loaded_at_the_start_are_where_the_average_starts(folder: Path, tmp_path: Path) -> None:
    cfg = tiny_config(folder, tmp_path / "out", "SOLVER.EMA_DECAY", 0.9, "SOLVER.BASE_LR", 0.0)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "first.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "first.pth")
    trainer = trainer_of(cfg, seed=77)
    trainer.train()
    final = torch.load(tmp_path / "out/model_final_ema.pth")["model"]
    torch.testing.assert_close(final, torch.load(tmp_path / "first.pth")["model"])


def test_the_order_of_the_hooks(folder: Path, tmp_path: Path) -> None:
    options = (*LENGTH, *STOPPING, "SOLVER.EMA_DECAY", 0.9)
    all_hooks = start(tiny_config(folder, tmp_path, *options, test=[folder]))._hooks
    names = [type(hook).__name__ for hook in all_hooks]
    expected = ["LRScheduler", "EmaUpdate", "LossRows", "PeriodicCheckpointer", "Evaluation", BestCheckpoint.__name__]
    expected += [EarlyStopping.__name__, "MetricRows"]
    assert [name for name in names if name in expected] == expected and isinstance(all_hooks[-1], PeriodicWriter)


def test_of_several_test_sets_the_first_is_meant(
    folder: Path, tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    cfg = tiny_config(folder, tmp_path / "out", *LENGTH, *STOPPING, test=[folder, tiny_folder(name="other")])
    trainer = start(cfg)
    evaluation = hook_of(trainer, Evaluation)
    first, second = cfg.DATASETS.TEST
    evaluation.results = {f"{first}/segm/AP": 1.0, f"{second}/segm/AP": 2.0, f"ema/{first}/segm/AP": 3.0}
    assert evaluation.metric("segm/AP") == 1.0 and evaluation.metric(f"{second}/segm/AP") == 2.0
    assert evaluation.metric("ema/segm/AP") == 3.0
    evaluation.results = {f"{first}/segm/AP-cinema/seat": 4.0, f"ema/{first}/segm/AP-cinema/seat": 5.0}
    assert evaluation.metric("segm/AP-cinema/seat") == 4.0
    assert evaluation.metric("ema/segm/AP-cinema/seat") == 5.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((*STOPPING, "TEST.BEST_METRIC", "segm/PA"), 'TEST.BEST_METRIC is "segm/PA", but an evaluation gives segm/AP'),
        ((*STOPPING, "TEST.EVAL_PERIOD", 0), "EARLY_STOPPING goes by evaluations"),
        (("SOLVER.EARLY_STOPPING.PATIENCE", -1), "PATIENCE is -1"),
        ((*STOPPING, "TEST.BEST_MODE", "most"), 'BEST_MODE is "most", use max or min'),
    ],
)
def test_what_cannot_be_followed_is_one_line(
    folder: Path, tmp_path: Path, overrides: tuple[object, ...], message: str
) -> None:
    with pytest.raises(RamsesError, match=message) as error:
        run(tiny_config(folder, tmp_path / "out", *LENGTH, *overrides, test=[folder]))
    assert "\n" not in str(error.value)


def on_a_rank(rank: int, folder: Path, output: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{output}/rendezvous", rank=rank, world_size=2)
    options = (*LENGTH, "SOLVER.EARLY_STOPPING.PATIENCE", 2)
    trainer = start(tiny_config(folder, output, *options, "SOLVER.EMA_DECAY", 0.9, test=[folder]))
    if rank:
        trainer.test = lambda cfg, model: {}  # only the main process has results
    trainer.train()
    state = {
        "weights": trainer.model.module.state_dict(),
        "ema": trainer.ema.module.state_dict(),
        "steps": trainer.iter,
    }
    torch.save(state, output / f"rank{rank}.pth")
    dist.destroy_process_group()


def test_all_ranks_stop_at_the_same_step(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    mp.spawn(on_a_rank, args=(folder, output), nprocs=2)
    one, two = (torch.load(output / f"rank{rank}.pth", weights_only=False) for rank in range(2))
    assert one["steps"] == 6
    assert_same(one, two)
