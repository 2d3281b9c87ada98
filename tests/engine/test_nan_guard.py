"""A loss or gradient that is not finite never reaches the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage
from torch import nn

from ramses_d2 import RamsesError
from ramses_d2.engine.nan_guard import NanGuard

from .training import tiny_config, trainer_of


class Network(nn.Module):
    """Two losses that a test chooses."""

    def __init__(self, **losses: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.losses = losses

    def forward(self, items: list[dict[str, Any]]) -> Any:
        if not self.training:
            return [{}]
        return {name: value * self.weight.sum() for name, value in self.losses.items()}


ITEMS = [{"file_name": "left.png"}, {"file_name": "right.png"}]


def guarded(**losses: float) -> tuple[Network, torch.optim.Optimizer]:
    network = Network(**losses)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    NanGuard(network, optimizer)
    return network, optimizer


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_part_that_is_not_finite(value: float) -> None:
    network, _ = guarded(loss_cls=1.0, loss_mass=value)
    with EventStorage(41), pytest.raises(RamsesError) as error:
        network(ITEMS)
    message = str(error.value)
    assert message.startswith(f"iteration 41: loss_mass is {value}, with the pictures left.png, right.png;")
    assert "loss_cls" not in message and "\n" not in message


def test_parts_that_overflow_together() -> None:
    network, _ = guarded(loss_cls=1e38, loss_mass=1e38)
    with EventStorage(), pytest.raises(RamsesError, match="the total loss is inf"):
        network(ITEMS)


def test_gradients_that_are_not_finite() -> None:
    network, optimizer = guarded(loss=1.0)
    with EventStorage():
        network(ITEMS)["loss"].backward()
        network.weight.grad[1] = float("inf")
        network.weight.grad[2] = float("-inf")
        with pytest.raises(RamsesError, match=r"of 1 tensors are not finite .weight., with the pictures left.png"):
            optimizer.step()
        assert torch.equal(network.weight.detach(), torch.ones(3))
        network.weight.grad.fill_(3e38)  # the sum overflows, no gradient does
        optimizer.step()


def test_a_step_that_the_scaler_skips_is_normal() -> None:
    network, optimizer = guarded(loss=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with EventStorage():
        for overflow in (True, False):
            optimizer.zero_grad()
            scaler.scale(network(ITEMS)["loss"]).backward()
            if overflow:
                network.weight.grad[0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(network.weight.detach(), torch.full((3,), 1.0 if overflow else 0.9))


def test_evaluation_is_not_watched() -> None:
    network, _ = guarded(loss=float("nan"))
    assert network.eval()(ITEMS) == [{}]


class Poison(HookBase):
    """Makes the losses NaN from a step on."""

    def before_step(self) -> None:
        if self.trainer.iter == 3:
            with torch.no_grad():
                self.weight = next(p for p in self.trainer.model.parameters() if p.ndim == 4)
                self.weight[0] = float("nan")


def test_a_training_ends_before_its_last_step(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    """The last one is where Detectron2 would go on to evaluate, and with the period of 1, to save."""
    folder = tiny_folder()
    cfg = tiny_config(folder, tmp_path / "out", "SOLVER.CHECKPOINT_PERIOD", 1, test=[folder])
    trainer = trainer_of(cfg)
    trainer.register_hooks([Poison()])
    with pytest.raises(RamsesError, match=r"iteration 3: loss_cls is nan.*img\d\.png"):
        trainer.train()
    out = tmp_path / "out"
    assert (out / "last_checkpoint").read_text() == "model_0000002.pth"
    assert not list(out.glob("evaluation*")) and not (out / "model_final.pth").exists()
    assert (out / "metrics.json").read_text()  # of the steps before it
    with pytest.raises(RamsesError, match="not written"):
        trainer.checkpointer.save("model_0000003")


def test_a_check_of_detectron2_names_the_pictures_too(
    tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tiny_config(tiny_folder(), tmp_path / "out"))

    def diverged(items: Any) -> None:
        raise FloatingPointError("Predicted boxes or scores contain Inf/NaN.\nTraining has diverged.")

    monkeypatch.setattr(trainer.model, "_losses", diverged)
    with pytest.raises(RamsesError, match=r"iteration 0: Predicted boxes .* diverged\., with the pictures .*\.png"):
        trainer.train()
