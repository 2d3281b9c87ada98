"""A loss or gradient that is not finite never reaches the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ramses_d2.engine.hooks import NanGuard
from ramses_d2.engine.solver import clip_before_step
from ramses_d2.errors import RamsesError
from tests.engine.conftest import trainer_of

ITEMS = [{"file_name": "left.png"}, {"file_name": "right.png"}]


class Network(nn.Module):
    """Losses that a test chooses."""

    def __init__(self, **losses: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.losses = losses

    def forward(self, items: list[dict[str, Any]]) -> Any:
        return {name: value * self.weight.sum() for name, value in self.losses.items()} if self.training else [{}]


def guarded(**losses: float) -> tuple[Network, torch.optim.Optimizer]:
    network = Network(**losses)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    NanGuard(network, optimizer)
    return network, optimizer


@pytest.mark.parametrize(
    ("losses", "what"),
    [
        *[
            ({"loss_cls": 1.0, "loss_mass": value}, f"loss_mass is {value}")
            for value in map(float, ("nan", "inf", "-inf"))
        ],
        ({"loss_cls": 1e38, "loss_mass": 1e38}, "the total loss is inf"),
    ],
)
def test_losses_that_are_not_finite(losses: dict[str, float], what: str) -> None:
    network, _ = guarded(**losses)
    with EventStorage(41), pytest.raises(RamsesError) as error:
        network(ITEMS)
    message = str(error.value)
    assert message.startswith(f"iteration 41: {what}, with the images left.png, right.png;")
    assert "loss_cls" not in message and "\n" not in message
    assert network.eval()(ITEMS) == [{}]  # evaluation is not watched


@pytest.mark.parametrize(
    ("kind", "value"), [("full_model", "nan"), ("norm", "inf"), ("value", "inf"), ("none", "-inf"), ("none", "nan")]
)
def test_gradients_are_looked_at_before_they_are_clipped(kind: str, value: str) -> None:
    network = Network(loss=1.0)
    network.innocent = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    if kind != "none":
        clip_before_step(optimizer, kind, 1.0, 2.0)
    NanGuard(network, optimizer)
    with EventStorage():
        network(ITEMS)["loss"].backward()
        network.weight.grad[1:] = torch.tensor([float(value), -float(value)])
        network.innocent.grad = torch.full((3,), 2.0)
        with pytest.raises(RamsesError, match=r"of 1 tensors are not finite .weight., with the images left.png"):
            optimizer.step()
        assert torch.equal(network.weight.detach(), torch.ones(3))
        network.weight.grad[:] = 0.0 if kind != "none" else 3e38  # the sum overflows, no gradient does
        optimizer.step()
    assert (network.innocent.detach() > 0.89).all() == (kind != "none")  # it is still clipped


def on_a_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    network, optimizer = guarded(loss=1.0)
    with EventStorage(7):
        parallel = DistributedDataParallel(network)
        loss = parallel([{"file_name": f"of_rank_{rank}.png"}])["loss"]
        (loss * (float("inf") if rank == 1 else 1.0)).backward()
        try:
            optimizer.step()
        except RamsesError as error:
            Path(folder, f"error{rank}").write_text(str(error))
    network.losses = {"loss": float("nan")}
    with EventStorage(8):
        try:
            network(ITEMS)
        except RamsesError as error:
            Path(folder, f"own{rank}").write_text(str(error))
    dist.destroy_process_group()


def test_averaged_gradients_may_be_of_any_process(tmp_path: Path) -> None:
    mp.spawn(on_a_rank, args=(str(tmp_path),), nprocs=2)
    one, two = ((tmp_path / f"error{rank}").read_text() for rank in range(2))
    assert one == two
    start = "iteration 7: the gradients of 1 tensors are not finite (weight), with the images "
    assert one.startswith(f"{start}of_rank_0.png, of_rank_1.png;")
    assert (tmp_path / "own1").read_text().startswith("iteration 8, process 1: loss is nan, with the images left.png")


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


class Poison(HookBase):
    """Makes the losses NaN from step 3 on."""

    def before_step(self) -> None:
        if self.trainer.iter == 3:
            with torch.no_grad():
                next(p for p in self.trainer.model.parameters() if p.ndim == 4)[0] = float("nan")


def test_a_training_ends_before_its_last_step(config: Callable[..., CfgNode], tmp_path: Path) -> None:
    """The last one is where Detectron2 would go on to evaluate, and with the period of 1, to save."""
    trainer = trainer_of(config("SOLVER.CHECKPOINT_PERIOD", 1))
    trainer.register_hooks([Poison()])
    with pytest.raises(RamsesError, match=r"iteration 3: loss_cls is nan.*img\d\.png"):
        trainer.train()
    out = tmp_path / "out"
    assert (out / "last_checkpoint").read_text() == "model_0000002.pth"
    assert not list(out.glob("evaluation*")) and not (out / "model_final.pth").exists()
    assert (out / "metrics.json").read_text()  # of the steps before it
    with pytest.raises(RamsesError, match="not written"):
        trainer.checkpointer.save("model_0000003")


def test_a_check_of_detectron2_names_the_images_too(config: Callable[..., CfgNode]) -> None:
    trainer = trainer_of(config())

    def diverged(*_: Any) -> None:
        raise FloatingPointError("Predicted boxes or scores contain Inf/NaN.\nTraining has diverged.")

    trainer.model.register_forward_hook(diverged)
    with pytest.raises(RamsesError, match=r"iteration 0: Predicted boxes .* diverged\., with the images .*\.png"):
        trainer.train()
