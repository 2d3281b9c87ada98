"""Two processes over gloo, one of them with nothing but an empty belt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from ramses_d2.config import load_config
from ramses_d2.engine.solver import build_optimizer
from tests.modeling.conftest import blocks, training_item

TINY_YAML = str(Path(__file__).parents[1] / "ramses_tiny.yaml")


def items_of(rank: int) -> list[dict]:
    return [training_item(blocks(16, 24, 5) if rank == 0 else np.zeros((16, 24), np.int64), seed=rank)]


def step(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    assert comm.get_world_size() == 2
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
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert empty["loss_mask"] == empty["loss_mass"] == 0 and losses["loss_mask"] > 0
    # The losses are normalised over both processes: their mean is the loss of one process with both images
    cfg = load_config(TINY_YAML)
    torch.manual_seed(0)
    model = build_model(cfg)
    with EventStorage():
        together = model(items_of(0) + items_of(1))
    for name, value in together.items():
        torch.testing.assert_close((losses[name] + empty[name]) / 2, value.detach(), rtol=1e-4, atol=1e-6)
