"""Training: it runs, evaluates, saves, and resumes bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase

from ramses_d2.config import load_config
from ramses_d2.data.catalog import register, register_datasets
from ramses_d2.engine.setup import resolve_classes
from ramses_d2.engine.trainer import RamsesTrainer
from ramses_d2.errors import RamsesError
from ramses_d2.evaluation.evaluator import RamsesEvaluator
from ramses_d2.masks import RLEMasks

TINY_YAML = str(Path(__file__).parents[1] / "ramses_tiny.yaml")


@pytest.fixture
def folder(tiny_folder: Callable[..., Path]) -> Path:
    """Five images of both orientations, one of them empty."""
    return tiny_folder(sizes=[(64, 96)] * 3 + [(96, 64)] * 2, count=[4, 6, 0, 5, 3])


def config(folder: Path, output: Path, *overrides: object) -> CfgNode:
    uri = f"('ramses://{folder}',)"
    options = ["DATASETS.TRAIN", uri, "DATASETS.TEST", uri, "OUTPUT_DIR", str(output), *overrides]
    cfg = load_config(TINY_YAML, options)
    register_datasets([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    resolve_classes(cfg, cfg.DATASETS.TRAIN)
    output.mkdir(exist_ok=True)
    return cfg


def start(cfg: CfgNode, seed: int = 1) -> RamsesTrainer:
    torch.manual_seed(seed)  # of the first weights, as Detectron2's default_setup does
    return RamsesTrainer(cfg)


def train(cfg: CfgNode, *, resume: bool = False, seed: int = 1) -> RamsesTrainer:
    trainer = start(cfg, seed)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


class PowerCut(HookBase):
    def before_step(self) -> None:
        if self.trainer.iter == 2:
            raise InterruptedError


def test_resuming_continues_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    # Dropout-like randomness, augmentation, warm-up and Adam's moments all have to be picked up again
    noise = ("MODEL.CONVNEXTV2.DROP_PATH", 0.5, "MODEL.RAMSES.LOSS.MAX_POS_PER_IMAGE", 3)
    whole = train(config(folder, tmp_path / "whole", *noise))
    interrupted = config(folder, tmp_path / "parts", *noise)
    trainer = start(interrupted)
    trainer.resume_or_load(resume=False)
    trainer.register_hooks([PowerCut()])
    with pytest.raises(InterruptedError):
        trainer.train()
    resumed = train(interrupted, resume=True, seed=99)  # the process that resumes has another history
    assert resumed.start_iter == 2
    weights = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    a, b = (t._trainer.optimizer.state_dict() for t in (whole, resumed))
    assert a["param_groups"] == b["param_groups"]
    for key in a["state"]:
        assert torch.equal(a["state"][key]["exp_avg_sq"], b["state"][key]["exp_avg_sq"])


def test_a_finished_run_resumes_at_its_last_step(folder: Path, tmp_path: Path) -> None:
    """The best checkpoint, saved after the last step, is not what --resume continues from."""
    train(config(folder, tmp_path / "out", "SOLVER.MAX_ITER", 2))
    assert (tmp_path / "out/model_best.pth").is_file()
    assert (tmp_path / "out/last_checkpoint").read_text() == "model_final.pth"
    assert train(config(folder, tmp_path / "out", "SOLVER.MAX_ITER", 3), resume=True).start_iter == 2


def test_the_best_score_survives_a_resume(folder: Path, tmp_path: Path) -> None:
    train(config(folder, tmp_path / "out", "TEST.EVAL_PERIOD", 1, "SOLVER.MAX_ITER", 2))
    best = tmp_path / "out/model_best.pth"
    torch.save(torch.load(best) | {"value": 77.0}, best)
    before = best.read_bytes()
    train(config(folder, tmp_path / "out", "TEST.EVAL_PERIOD", 1, "SOLVER.MAX_ITER", 4), resume=True)
    assert best.read_bytes() == before


def test_two_test_sets_have_files_of_their_own_and_a_best_checkpoint(
    folder: Path, tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    uris = (f"ramses://{folder}", f"ramses://{tiny_folder(name='other')}")
    register(uris[1])
    train(config(folder, tmp_path / "out", "SOLVER.MAX_ITER", 1, "DATASETS.TEST", str(uris)))
    assert len(list((tmp_path / "out").glob("*/evaluation.json"))) == 2
    assert (tmp_path / "out/model_best.pth").is_file()


def test_evaluation_never_holds_full_size_bit_masks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(folder, tmp_path / "out", "MODEL.RAMSES.TEST.SCORE_THRESH", 0.0)
    seen = []
    process = RamsesEvaluator.process

    def spy(self: RamsesEvaluator, inputs: list, outputs: list) -> None:
        seen.extend(type(output["instances"].pred_masks) for output in outputs)
        process(self, inputs, outputs)

    monkeypatch.setattr(RamsesEvaluator, "process", spy)
    trainer = start(cfg)
    RamsesTrainer.test(cfg, trainer.model)
    assert set(seen) == {RLEMasks}
    assert trainer.model.settings.mask_format == "bitmask"


def test_a_run_begun_without_mixed_precision_resumes_with_it(folder: Path, tmp_path: Path) -> None:
    trainer = start(config(folder, tmp_path / "out"))
    state = trainer.state_dict()
    trainer._trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    trainer.load_state_dict(state)
    assert state["_trainer"]["grad_scaler"]["scale"] == 8.0


def test_evaluation_reaches_the_metrics_and_the_best_checkpoint(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    train(config(folder, output, "TEST.EVAL_PERIOD", 2))
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert any("segm/AP" in line and "mass/MAPE" in line for line in lines)
    assert any({"loss_cls", "loss_mask", "loss_mass", "ramses/positive_cells"} <= line.keys() for line in lines)
    assert (output / "model_final.pth").is_file()
    assert (output / "evaluation.json").is_file()


def test_a_checkpoint_without_optimizer_is_not_resumed(folder: Path, tmp_path: Path) -> None:
    cfg = config(folder, tmp_path / "out")
    trainer = train(cfg)
    path = Path(trainer.checkpointer.get_checkpoint_file())
    content = torch.load(path, weights_only=False)
    del content["trainer"]["_trainer"]
    torch.save(content, path)
    with pytest.raises(RamsesError, match="no optimizer state"):
        RamsesTrainer(cfg).resume_or_load(resume=True)


def test_classes_must_fit_the_data(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RamsesError, match="NUM_CLASSES is 7, but .* has 3 classes"):
        config(folder, tmp_path / "out", "MODEL.RAMSES.NUM_CLASSES", 7)
    with pytest.raises(RamsesError, match="CLASS_NAMES is c, b, a"):
        config(folder, tmp_path / "out", "MODEL.RAMSES.CLASS_NAMES", ["c", "b", "a"])
    assert config(folder, tmp_path / "out").MODEL.RAMSES.CLASS_NAMES == ["brick", "concrete", "glass"]
