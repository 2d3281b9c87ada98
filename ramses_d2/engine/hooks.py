"""The best checkpoint, in a form that resuming can trust."""

from __future__ import annotations

from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import hooks
from torch import nn


class _WeightsOnly(DetectionCheckpointer):
    """Saves weights beside the training's checkpoints, without becoming the one that ``--resume`` picks up."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        pass


class BestCheckpoint(hooks.BestCheckpointer):
    """Keep the weights of the best evaluation so far in ``model_best.pth``, across resumes too.

    Detectron2's own hook forgets the best score on resume, and its file becomes the last checkpoint.

    Args:
        eval_period: steps between evaluations, 0 = only after training.
        model: whose weights to keep.
        output_dir: where.
        metric: to maximise, as the storage names it.
    """

    def __init__(self, eval_period: int, model: nn.Module, output_dir: str, metric: str) -> None:
        super().__init__(eval_period, _WeightsOnly(model, output_dir), metric, file_prefix="model_best")

    def state_dict(self) -> dict[str, Any]:
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_metric, self.best_iter = state_dict["best_metric"], state_dict["best_iter"]
