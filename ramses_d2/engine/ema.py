"""A moving average of the weights, evaluated beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from ..errors import RamsesError
from .checkpointer import WeightsOnly


class EmaWeights:
    """Exponential moving average of a network's parameters, in fp32; its buffers are copied.

    Update ``t`` (from 0) keeps ``min(decay, (1 + t) / (10 + t))`` of the average, so that the random first weights are
    forgotten quickly.

    Args:
        model: whose weights the average starts from; may be wrapped for several processes.
        decay: share of the average that an update keeps, above 0 and below 1.

    Raises:
        RamsesError: ``decay`` is out of range.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise RamsesError(f"SOLVER.EMA_DECAY is {decay}, use 0 for none or a number below 1 such as 0.999")
        self.decay = decay
        self.updates = 0
        self.average: dict[str, torch.Tensor] = {}
        self.restart(model)

    @torch.no_grad()
    def restart(self, model: nn.Module) -> None:
        """Begin anew with the weights a network has now."""
        self.updates = 0
        self.average = {
            name: value.detach().to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
            for name, value in _plain(model).state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a training step."""
        kept = min(self.decay, (1 + self.updates) / (10 + self.updates))
        network = _plain(model)
        averaged = {name for name, _ in network.named_parameters(remove_duplicate=False)}
        for name, value in network.state_dict().items():
            if name in averaged:
                self.average[name].lerp_(value.float(), 1 - kept)
            else:
                self.average[name].copy_(value)
        self.updates += 1

    def buffers(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """What is copied rather than averaged, such as running statistics."""
        return {name: self.average[name] for name, _ in _plain(model).named_buffers() if name in self.average}

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """The network has the averaged weights inside the ``with`` block, and its own again, bit for bit, after it."""
        state = _plain(model).state_dict()
        own = {name: value.clone() for name, value in state.items()}
        try:
            _fill(state, self.average)
            yield
        finally:
            _fill(state, own)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates = state_dict["updates"]
        _fill(self.average, state_dict["average"])


class EmaUpdate(HookBase):
    """Averages after every step, and keeps the average in ``model_final_ema.pth``; stands before the checkpointer.

    Args:
        ema: the average.
        model: the network that trains.
        output_dir: of the final weights.
    """

    def __init__(self, ema: EmaWeights, model: nn.Module, output_dir: str) -> None:
        self._ema = ema
        self._model = model
        self._output_dir = output_dir

    def before_train(self) -> None:
        if self._ema.updates == 0:  # not resumed: weights may have been loaded since
            self._ema.restart(self._model)

    def after_step(self) -> None:
        self._ema.update(self._model)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter and comm.is_main_process():
            with self._ema.applied_to(self._model):
                WeightsOnly(self._model, self._output_dir).save("model_final_ema")


def _plain(model: nn.Module) -> nn.Module:
    return getattr(model, "module", model)  # DistributedDataParallel


@torch.no_grad()
def _fill(state: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> None:
    for name, value in state.items():
        value.copy_(values[name])
