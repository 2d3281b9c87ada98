"""What a resumed training finds, and what it finishes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from ramses_d2.engine.checkpointer import TrainingCheckpointer
from ramses_d2.engine.hooks import BestCheckpoint
from ramses_d2.engine.trainer import RamsesTrainer
from ramses_d2.errors import RamsesError
from tests.engine.training import tiny_config, trainer_of


def weights(trainer: RamsesTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_truncated_checkpoint_costs_only_its_steps(
    tiny_folder: Callable[..., Path], tmp_path: Path, caplog: Any
) -> None:
    folder = tiny_folder()
    whole = trainer_of(tiny_config(folder, tmp_path / "whole", "SOLVER.CHECKPOINT_PERIOD", 1))
    whole.train()
    cfg = tiny_config(folder, tmp_path / "parts", "SOLVER.CHECKPOINT_PERIOD", 1)
    trainer_of(cfg).train()
    for name in ("model_final.pth", "model_0000003.pth", "model_0000002.pth"):
        path = tmp_path / "parts" / name
        path.write_bytes(path.read_bytes()[:-2000])
    with caplog.at_level(logging.WARNING, logger="ramses_d2"):
        resumed = trainer_of(cfg, resume=True, seed=99)
    assert resumed.start_iter == 2
    assert sum("skipped" in record.message for record in caplog.records) == 3
    resumed.train()
    assert same(weights(resumed), weights(whole))
    lines = [json.loads(line) for line in (tmp_path / "parts/metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [3]  # not a second time


def test_killed_after_the_last_step_it_is_finished(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_folder()
    cfg = tiny_config(folder, tmp_path / "out", test=[folder])
    whole = trainer_of(cfg)
    whole.train()
    out = tmp_path / "out"
    evaluation = (out / "evaluation.json").read_bytes()
    final = torch.load(out / "model_final.pth")
    for name in ("model_final.pth", "model_best.pth", "evaluation.json"):
        (out / name).unlink()
    (out / "last_checkpoint").write_text("model_0000003.pth")
    resumed = trainer_of(cfg, resume=True, seed=99)
    assert resumed.start_iter == 4
    resumed.train()
    assert (out / "evaluation.json").read_bytes() == evaluation
    again = torch.load(out / "model_final.pth")
    assert again["iteration"] == final["iteration"] == 3 and same(again["model"], final["model"])
    assert (out / "model_best.pth").is_file()
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "segm/AP" in line] == [4]  # as in a run of one piece


def test_resuming_a_folder_without_checkpoints_starts_anew(
    tiny_folder: Callable[..., Path], tmp_path: Path, caplog: Any
) -> None:
    cfg = tiny_config(tiny_folder(), tmp_path / "out")
    with caplog.at_level(logging.INFO, logger="ramses_d2"):
        assert trainer_of(cfg, resume=True).start_iter == 0
    assert "starts from the beginning" in caplog.text


def test_the_training_state_is_read_without_unpickling(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Every hook's state of a training with everything on, NumPy's numbers included."""
    folder = tiny_folder()
    options = (
        *("TEST.EVAL_PERIOD", 2, "SOLVER.EMA_DECAY", 0.9),
        *("SOLVER.EARLY_STOPPING.PATIENCE", 5, "SOLVER.CHECKPOINT_PERIOD", 1),
    )
    cfg = tiny_config(folder, tmp_path / "out", *options, test=[folder])
    trainer_of(cfg).train()
    content = torch.load(tmp_path / "out/model_final.pth", weights_only=True)
    assert {"EarlyStopping", "Evaluation", "LRScheduler"} <= content["trainer"]["hooks"].keys()
    best = torch.load(tmp_path / "out/model_best.pth", weights_only=True)
    assert (best["iteration"], best["metric"], best["mode"]) == (1, "segm/AP", "max")
    assert trainer_of(cfg, resume=True).start_iter == 4


def test_an_optimizer_that_does_not_fit_is_one_line(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_folder()
    trainer_of(tiny_config(folder, tmp_path / "out")).train()
    for change in (("SOLVER.FREEZE", "['backbone']"), ("SOLVER.OPTIMIZER", "SGD")):
        with pytest.raises(RamsesError, match="optimizer does not fit SOLVER") as error:
            trainer_of(tiny_config(folder, tmp_path / "out", *change), resume=True)
        assert "\n" not in str(error.value)


def settings(trainer: RamsesTrainer, key: str) -> dict[str, Any]:
    """A setting of the optimizer, or a moment, for every parameter by name."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    optimizer = trainer._trainer.optimizer
    return {
        names[id(parameter)]: group.get(key) if key in group else optimizer.state[parameter][key].clone()
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize(
    "changes",
    [
        ("SOLVER.BASE_LR", 1e-4, "SOLVER.WEIGHT_DECAY", 0.2),
        # Other groups of parameters
        ("SOLVER.WEIGHT_DECAY", 0.0, "SOLVER.LR_FACTOR.BACKBONE", 0.1, "SOLVER.LAYER_DECAY", 0.5),
        # As many groups of as many parameters, and others in them
        ("SOLVER.LR_FACTOR.CLASS", 1.0, "SOLVER.LR_FACTOR.KERNEL", 0.1),
    ],
)
def test_rates_and_weight_decay_are_those_of_the_config_now(
    tiny_folder: Callable[..., Path], tmp_path: Path, changes: tuple[object, ...]
) -> None:
    folder = tiny_folder()
    first = trainer_of(tiny_config(folder, tmp_path / "out", "SOLVER.LR_FACTOR.CLASS", 0.1))
    first.train()
    options = ("SOLVER.LR_FACTOR.CLASS", 0.1, "SOLVER.MAX_ITER", 8, *changes)
    resumed = trainer_of(tiny_config(folder, tmp_path / "out", *options), resume=True)
    fresh = trainer_of(tiny_config(folder, tmp_path / "fresh", *options))
    assert settings(resumed, "weight_decay") == settings(fresh, "weight_decay")
    assert settings(resumed, "initial_lr") == settings(fresh, "initial_lr")
    fresh.scheduler.last_epoch = 4
    for group, rate in zip(fresh._trainer.optimizer.param_groups, fresh.scheduler.get_lr(), strict=True):
        group["lr"] = rate
    assert settings(resumed, "lr") == settings(fresh, "lr")
    assert same(settings(resumed, "exp_avg_sq"), settings(first, "exp_avg_sq"))
    for trainer in (resumed, fresh):
        trainer.scheduler.last_epoch = 5
    assert resumed.scheduler.get_lr() == fresh.scheduler.get_lr()  # and so on
    resumed.train()


def test_other_processes_than_the_first_miss_no_hook(
    tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    folder = tiny_folder()
    cfg = tiny_config(
        folder, tmp_path / "out", "SOLVER.EARLY_STOPPING.PATIENCE", 5, "TEST.EVAL_PERIOD", 2, test=[folder]
    )
    trainer_of(cfg).train()
    path = tmp_path / "out/model_final.pth"
    content = torch.load(path)
    content["trainer"]["hooks"]["OfTheFirst"] = {"a": 1}
    torch.save(content, path)
    with monkeypatch.context() as other:
        other.setattr(comm, "is_main_process", lambda: False)
        trainer = RamsesTrainer(cfg)
    assert not any(isinstance(hook, BestCheckpoint) for hook in trainer._hooks)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 4 and "Cannot find the hook" not in caplog.text


class FullDisk(HookBase):
    """Fills the disk before the checkpoint of step 3."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def before_step(self) -> None:
        if self.trainer.iter == 3:

            def fail(content: Any, stream: Any) -> None:
                stream.write(b"half")
                raise OSError(28, "No space left on device")

            self.monkeypatch.setattr(torch, "save", fail)


def test_a_full_disk_ends_a_training_with_one_line(
    tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder()
    cfg = tiny_config(folder, tmp_path / "out", test=[folder])
    whole = trainer_of(tiny_config(folder, tmp_path / "whole"))
    whole.train()
    trainer = trainer_of(cfg)
    trainer.register_hooks([FullDisk(monkeypatch)])
    with pytest.raises(RamsesError, match="model_0000003.pth: cannot be written .No space left on device"):
        trainer.train()
    assert not list((tmp_path / "out").glob("evaluation*"))
    monkeypatch.undo()
    resumed = trainer_of(cfg, resume=True, seed=99)
    assert resumed.start_iter == 2
    resumed.train()
    assert same(weights(resumed), weights(whole))


def test_checkpoints_of_a_training_are_not_overwritten_unasked(tmp_path: Path) -> None:
    """Neither where last_checkpoint is gone: --resume would find them."""
    from ramses_d2.engine.checkpointer import checkpoints_in

    model = torch.nn.Linear(1, 1)
    TrainingCheckpointer(model, str(tmp_path)).save("model_0000001")
    (tmp_path / "last_checkpoint").unlink()
    (tmp_path / "model_best.pth").write_bytes(b"")
    assert [path.name for path in checkpoints_in(tmp_path)] == ["model_0000001.pth"]
