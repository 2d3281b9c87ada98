"""Small trainings in this process: of the tiny network on a tiny folder, with evaluations that a test may script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import nn

from ramses_d2.config import load_config
from ramses_d2.data.catalog import register_datasets
from ramses_d2.engine.setup import resolve_classes
from ramses_d2.engine.trainer import RamsesTrainer

ROOT = Path(__file__).parents[2]
TINY_YAML = str(ROOT / "tests/ramses_tiny.yaml")
Results = Mapping[str, Mapping[str, float]]


def tiny_config(folder: Path, output: Path, *overrides: object, test: Sequence[Path] = ()) -> CfgNode:
    """Config of a tiny training on a RAMSES folder into ``output``, evaluated on the ``test`` folders."""
    tests = tuple(f"ramses://{path}" for path in test)
    options = ["DATASETS.TRAIN", f"('ramses://{folder}',)", "DATASETS.TEST", str(tests), "OUTPUT_DIR", str(output)]
    cfg = load_config(TINY_YAML, [*options, *overrides])
    register_datasets([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST, *cfg.DATASETS.FINAL_TEST])
    resolve_classes(cfg, cfg.DATASETS.TRAIN)
    output.mkdir(exist_ok=True)
    return cfg


class ScriptedTrainer(RamsesTrainer):
    """A trainer whose evaluations give ``script``'s results, by the steps done, instead of looking at images.

    ``seen`` has the steps and the folder of every evaluation. It is cut off before the step ``cut``, or while it
    evaluates after ``cut_in_evaluation`` steps.
    """

    def __init__(self, cfg: CfgNode, script: Callable[[int], Results] | None = None) -> None:
        self.script, self.seen = script, []
        self.cut: int | None = None
        self.cut_in_evaluation: int | None = None
        super().__init__(cfg)
        if script is not None:
            self.test = self._scripted_test

    def build_hooks(self) -> list[HookBase]:
        self.all_hooks = super().build_hooks()
        return self.all_hooks

    def _scripted_test(self, cfg: CfgNode, model: nn.Module) -> Results:
        steps = min(self.iter + 1, self.max_iter)
        if self.cut_in_evaluation == steps:
            raise InterruptedError
        self.seen.append((steps, Path(cfg.OUTPUT_DIR).name))
        return self.script(steps)

    def before_step(self) -> None:
        super().before_step()
        if self.iter == self.cut:
            raise InterruptedError


def trainer_of(
    cfg: CfgNode,
    *,
    resume: bool = False,
    seed: int = 1,
    script: Callable[[int], Results] | None = None,
    cut: int | None = None,
    cut_in_evaluation: int | None = None,
) -> ScriptedTrainer:
    """A trainer that is ready to train; see :class:`ScriptedTrainer`."""
    torch.manual_seed(seed)  # of the first weights, as Detectron2's default_setup does
    trainer = ScriptedTrainer(cfg, script)
    trainer.cut, trainer.cut_in_evaluation = cut, cut_in_evaluation
    trainer.resume_or_load(resume=resume)
    return trainer


def train(cfg: CfgNode, **options: Any) -> ScriptedTrainer:
    """Train, to the end or to the cut."""
    trainer = trainer_of(cfg, **options)
    if trainer.cut is None and trainer.cut_in_evaluation is None:
        trainer.train()
    else:
        with pytest.raises(InterruptedError):
            trainer.train()
    return trainer


def hook_of(trainer: ScriptedTrainer, kind: type[HookBase]) -> Any:
    (found,) = (hook for hook in trainer.all_hooks if type(hook) is kind)
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


@pytest.fixture
def folder(tiny_folder: Callable[..., Path]) -> Path:
    """Five images of both orientations, one of them empty."""
    return tiny_folder(sizes=[(64, 96)] * 3 + [(96, 64)] * 2, count=[4, 6, 0, 5, 3])


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> Callable[..., CfgNode]:
    """Config of a training on ``folder``, which it is evaluated on, too."""

    def make(*overrides: object, output: str = "out", test: Sequence[Path] | None = None) -> CfgNode:
        return tiny_config(folder, tmp_path / output, *overrides, test=[folder] if test is None else test)

    return make
