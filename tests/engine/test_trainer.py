"""Training: it runs, evaluates and saves; a resumed one continues bit for bit, and finishes what was left."""

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
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from ramses_d2.config import load_config
from ramses_d2.engine.hooks import BestCheckpoint
from ramses_d2.engine.solver import build_optimizer
from ramses_d2.engine.trainer import RamsesTrainer
from ramses_d2.errors import RamsesError
from ramses_d2.evaluation.evaluator import RamsesEvaluator
from ramses_d2.masks import RLEMasks
from tests.engine.conftest import TINY_YAML, ScriptedTrainer, assert_same, train, trainer_of
from tests.modeling.conftest import blocks, training_item

Config = Callable[..., CfgNode]
NO_TEST: dict[str, Any] = {"test": []}


def weights(trainer: RamsesTrainer) -> dict[str, torch.Tensor]:
    return dict(trainer.model.state_dict())


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]


def test_resuming_continues_bit_for_bit(config: Config) -> None:
    # Dropout-like randomness, augmentation, warm-up and Adam's moments all have to be picked up again
    noise = ("MODEL.CONVNEXTV2.DROP_PATH", 0.5, "MODEL.RAMSES.LOSS.MAX_POS_PER_IMAGE", 3)
    whole = train(config(*noise, output="whole"))
    train(config(*noise), cut=2)
    resumed = train(config(*noise), resume=True, seed=99)  # the process that resumes has another history
    assert resumed.start_iter == 2
    assert_same(weights(resumed), weights(whole))
    assert_same(resumed.optimizer.state_dict(), whole.optimizer.state_dict())


def test_a_finished_run_resumes_at_its_last_step(config: Config, tmp_path: Path) -> None:
    """The best checkpoint, saved after the last step, is not what --resume continues from."""
    out = tmp_path / "out"
    train(config("TEST.EVAL_PERIOD", 1, "SOLVER.MAX_ITER", 2))
    assert (out / "model_final.pth").is_file() and (out / "evaluation.json").is_file()
    assert any("segm/AP" in line and "mass/MAPE" in line for line in lines(out))
    assert any({"loss_cls", "loss_mask", "loss_mass", "ramses/positive_cells"} <= line.keys() for line in lines(out))
    best = out / "model_best.pth"
    torch.save(torch.load(best) | {"value": 77.0}, best)
    before = best.read_bytes()
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    assert train(config("TEST.EVAL_PERIOD", 1, "SOLVER.MAX_ITER", 3), resume=True).start_iter == 2
    assert best.read_bytes() == before


def test_two_test_sets_have_files_of_their_own(folder: Path, tiny_folder: Any, config: Config, tmp_path: Path) -> None:
    train(config("SOLVER.MAX_ITER", 1, test=[folder, tiny_folder(name="other")]))
    assert len(list((tmp_path / "out").glob("*/evaluation.json"))) == 2
    assert (tmp_path / "out/model_best.pth").is_file()


def test_evaluation_never_holds_full_size_bit_masks(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config("MODEL.RAMSES.TEST.SCORE_THRESH", 0.0)
    seen = []
    process = RamsesEvaluator.process

    def spy(self: RamsesEvaluator, inputs: list, outputs: list) -> None:
        seen.extend(type(output["instances"].pred_masks) for output in outputs)
        process(self, inputs, outputs)

    monkeypatch.setattr(RamsesEvaluator, "process", spy)
    trainer = trainer_of(cfg)
    RamsesTrainer.test(cfg, trainer.model)
    assert set(seen) == {RLEMasks} and trainer.model.settings.mask_format == "bitmask"


def test_a_run_begun_without_mixed_precision_resumes_with_it(config: Config) -> None:
    trainer = trainer_of(config())
    state = trainer.state_dict()
    trainer._trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    trainer.load_state_dict(state)
    assert state["_trainer"]["grad_scaler"]["scale"] == 8.0


def test_a_truncated_checkpoint_costs_only_its_steps(config: Config, tmp_path: Path, caplog: Any) -> None:
    options = ("SOLVER.CHECKPOINT_PERIOD", 1)
    whole = train(config(*options, output="whole", **NO_TEST))
    train(config(*options, **NO_TEST))
    for name in ("model_final.pth", "model_0000003.pth", "model_0000002.pth"):
        path = tmp_path / "out" / name
        path.write_bytes(path.read_bytes()[:-2000])
    with caplog.at_level(logging.WARNING, logger="ramses_d2"):
        resumed = train(config(*options, **NO_TEST), resume=True, seed=99)
    assert resumed.start_iter == 2 and sum("skipped" in record.message for record in caplog.records) == 3
    assert_same(weights(resumed), weights(whole))
    assert [line["iteration"] for line in lines(tmp_path / "out")] == [3]  # not a second time


def test_killed_after_the_last_step_it_is_finished(config: Config, tmp_path: Path) -> None:
    train(config())
    out = tmp_path / "out"
    evaluation, final = (out / "evaluation.json").read_bytes(), torch.load(out / "model_final.pth")
    for name in ("model_final.pth", "model_best.pth", "evaluation.json"):
        (out / name).unlink()
    (out / "last_checkpoint").write_text("model_0000003.pth")
    resumed = train(config(), resume=True, seed=99)
    assert resumed.start_iter == 4 and (out / "evaluation.json").read_bytes() == evaluation
    again = torch.load(out / "model_final.pth")
    assert again["iteration"] == final["iteration"] == 3 and (out / "model_best.pth").is_file()
    assert_same(again["model"], final["model"])
    assert [line["iteration"] for line in lines(out) if "segm/AP" in line] == [4]  # as in a run of one piece


def test_the_training_state_is_read_without_unpickling(config: Config, tmp_path: Path) -> None:
    """Every hook's state of a training with everything on, NumPy's numbers included; an unknown hook's is ignored."""
    options = ("TEST.EVAL_PERIOD", 2, "SOLVER.EMA_DECAY", 0.9, "SOLVER.EARLY_STOPPING.PATIENCE", 5)
    train(config(*options))
    path = tmp_path / "out/model_final.pth"
    content = torch.load(path, weights_only=True)
    assert {"EarlyStopping", "Evaluation", "LRScheduler"} <= content["trainer"]["hooks"].keys()
    best = torch.load(tmp_path / "out/model_best.pth", weights_only=True)
    assert (best["iteration"], best["metric"], best["mode"]) == (1, "segm/AP", "max")
    content["trainer"]["hooks"]["LossMean"] = {"sum": 1.0, "steps": 2}  # of an older release
    torch.save(content, path)
    assert trainer_of(config(*options), resume=True).start_iter == 4


def test_other_processes_than_the_first_miss_no_hook(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config("SOLVER.EARLY_STOPPING.PATIENCE", 5, "TEST.EVAL_PERIOD", 2)
    train(cfg)
    with monkeypatch.context() as other:
        other.setattr(comm, "is_main_process", lambda: False)
        trainer = ScriptedTrainer(cfg)
    assert not any(isinstance(hook, BestCheckpoint) for hook in trainer.all_hooks)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 4 and "Cannot find the hook" not in caplog.text


def test_a_state_that_does_not_fit_is_one_line(config: Config, tmp_path: Path) -> None:
    train(config(**NO_TEST))
    for change in (("SOLVER.FREEZE", "['backbone']"), ("SOLVER.OPTIMIZER", "SGD")):
        with pytest.raises(RamsesError, match="optimizer does not fit SOLVER") as error:
            trainer_of(config(*change, **NO_TEST), resume=True)
        assert "\n" not in str(error.value)
    path = tmp_path / "out/model_final.pth"
    content = torch.load(path, weights_only=False)
    del content["trainer"]["_trainer"]
    torch.save(content, path)
    with pytest.raises(RamsesError, match="no optimizer state"):
        trainer_of(config(**NO_TEST), resume=True)


def settings(trainer: RamsesTrainer, key: str) -> dict[str, Any]:
    """A setting of the optimizer, or a moment, for every parameter by name."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    return {
        names[id(parameter)]: group.get(key) if key in group else trainer.optimizer.state[parameter][key].clone()
        for group in trainer.optimizer.param_groups
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
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", (3, 6)),
    ],
)
def test_rates_and_weight_decay_are_those_of_the_config_now(config: Config, changes: tuple[object, ...]) -> None:
    first = train(config("SOLVER.LR_FACTOR.CLASS", 0.1, **NO_TEST))
    options = ("SOLVER.LR_FACTOR.CLASS", 0.1, "SOLVER.MAX_ITER", 8, *changes)
    resumed = trainer_of(config(*options, **NO_TEST), resume=True)
    fresh = trainer_of(config(*options, output="fresh", **NO_TEST))
    for key in ("weight_decay", "initial_lr"):
        assert settings(resumed, key) == settings(fresh, key)
    fresh.scheduler.last_epoch = 4
    for group, rate in zip(fresh.optimizer.param_groups, fresh.scheduler.get_lr(), strict=True):
        group["lr"] = rate
    assert settings(resumed, "lr") == settings(fresh, "lr")
    assert_same(settings(resumed, "exp_avg_sq"), settings(first, "exp_avg_sq"))
    for trainer in (resumed, fresh):
        trainer.scheduler.last_epoch = 5
    assert resumed.scheduler.get_lr() == fresh.scheduler.get_lr()  # and so on
    resumed.scheduler.last_epoch = 4
    resumed.train()


def test_a_full_disk_ends_a_training_with_one_line(config: Config, tmp_path: Path, monkeypatch: Any) -> None:
    whole = train(config(output="whole", **NO_TEST))
    save, saved = torch.save, []

    def fail_at_the_second(content: Any, stream: Any) -> None:
        saved.append(stream)
        if len(saved) == 2:
            stream.write(b"half")
            raise OSError(28, "No space left on device")
        save(content, stream)

    monkeypatch.setattr(torch, "save", fail_at_the_second)
    with pytest.raises(RamsesError, match="model_0000003.pth: cannot be written .No space left on device"):
        train(config())
    assert not list((tmp_path / "out").glob("evaluation*"))
    monkeypatch.undo()
    resumed = train(config(), resume=True, seed=99)
    assert resumed.start_iter == 2
    assert_same(weights(resumed), weights(whole))


# ---- two processes, one of them with nothing but an empty belt


def items_of(rank: int) -> list[dict]:
    return [training_item(blocks(16, 24, 5) if rank == 0 else np.zeros((16, 24), np.int64), seed=rank)]


def step(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    cfg = load_config(TINY_YAML)
    torch.manual_seed(0)
    model = DistributedDataParallel(build_model(cfg))
    optimizer = build_optimizer(cfg, model)
    with EventStorage():
        losses = model(items_of(rank))
        sum(losses.values()).backward()
    optimizer.step()
    torch.save((model.module.state_dict(), {k: v.detach() for k, v in losses.items()}), f"{folder}/rank{rank}.pth")
    dist.destroy_process_group()


def test_one_rank_without_objects(tmp_path: Path) -> None:
    mp.spawn(step, args=(str(tmp_path),), nprocs=2)
    (first, losses), (second, empty) = (torch.load(tmp_path / f"rank{rank}.pth") for rank in range(2))
    assert_same(first, second)
    assert empty["loss_mask"] == empty["loss_mass"] == 0 and losses["loss_mask"] > 0
    # The losses are normalised over both processes: their mean is the loss of one process with both images
    torch.manual_seed(0)
    model = build_model(load_config(TINY_YAML))
    with EventStorage():
        together = model(items_of(0) + items_of(1))
    for name, value in together.items():
        torch.testing.assert_close((losses[name] + empty[name]) / 2, value.detach(), rtol=1e-4, atol=1e-6)
