"""A loss or gradient that is not finite ends the training before it reaches the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from ..errors import RamsesError


class NanGuard:
    """Watches a network and its optimizer; they hold it, nobody else has to.

    Detectron2 looks at the losses after the backward pass, and on the main process alone: the others would go on.
    Under mixed precision a gradient that overflows is normal, and its step is skipped by the scaler; the optimizer is
    then not called, and neither is this.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Hook into both.

        Args:
            model: a Detectron2 network, which returns its losses in training; not yet wrapped for several processes.
            optimizer: of its parameters.
        """
        self._images: list[str] = []
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        model.register_forward_pre_hook(self._remember)
        model.register_forward_hook(self._check_losses)
        handle = optimizer.register_step_pre_hook(self._check_gradients)
        # Before clipping: by a common norm it would make every gradient NaN, by value an infinite one finite
        handle.hooks_dict_ref().move_to_end(handle.id, last=False)

    def error(self, what: str) -> RamsesError:
        """The line that ends the training, for what this process alone has found.

        Args:
            what: is not finite.
        """
        rank = f", process {comm.get_rank()}" if comm.get_world_size() > 1 else ""
        return self._line(rank, what, self._images)

    @staticmethod
    def _line(rank: str, what: str, images: list[str]) -> RamsesError:
        return RamsesError(
            f"iteration {get_event_storage().iter}{rank}: {what}, with the images {', '.join(images)}; the "
            f"training stops, its weights and checkpoints are untouched: look at these images, lower SOLVER.BASE_LR "
            f"or set SOLVER.CLIP_GRADIENTS, and continue with --resume"
        )

    def _remember(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        if model.training:
            self._images = [str(item.get("file_name", item.get("image_id", "?"))) for item in inputs[0]]

    def _check_losses(self, model: nn.Module, inputs: tuple[Any, ...], losses: Any) -> None:
        if not (model.training and isinstance(losses, Mapping) and losses):
            return
        values = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()
        bad = [f"{name} is {value}" for name, value in zip(losses, values, strict=True) if not math.isfinite(value)]
        if bad:
            raise self.error(", ".join(bad))
        total = sum(losses.values()).detach().item()  # in the losses' own precision, as the step would have it
        if not math.isfinite(total):
            raise self.error(f"the total loss is {total}")

    def _check_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # One number for all of them, so that a GPU is waited for once
        if not parameters or torch.stack([p.grad.sum().float() for p in parameters]).sum().isfinite():
            return
        bad = [self._names.get(id(p), "a parameter") for p in parameters if not p.grad.isfinite().all()]
        if bad:
            # They are averages over all processes, each of which comes to this line: any of the images may be it
            images = [image for of_rank in comm.all_gather(self._images) for image in of_rank]
            what = f"the gradients of {len(bad)} tensors are not finite ({', '.join(bad[:3])})"
            raise self._line("", what, images)
