"""The training stream is a function of the seed and the step."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest

from ramses_d2.data.loader import BatchStream, TrainLoader

DATASET_DICTS = [{"name": i, "height": 4 + 4 * (i % 3 == 0), "width": 6} for i in range(10)]


def noisy(dataset_dict: dict[str, Any]) -> dict[str, Any]:
    return dataset_dict | {"noise": float(np.random.rand())}


def batches(start: int = 0, workers: int = 0, seed: int = 3, count: int = 12) -> list[list[dict[str, Any]]]:
    loader = TrainLoader(DATASET_DICTS, noisy, total_batch_size=2, num_workers=workers, seed=seed)
    iterator = iter(loader)
    loader.start_at(start)  # Detectron2 calls iter() first
    return list(islice(iterator, count))


def test_the_stream_follows_from_seed_and_step() -> None:
    stream = batches()
    assert batches(start=5, count=7) == stream[5:]
    assert batches(workers=2) == stream
    assert batches(seed=4) != stream
    noises = [item["noise"] for batch in stream for item in batch]
    assert len(set(noises)) == len(noises)  # every draw of an image is augmented anew


def test_a_batch_has_one_orientation_and_an_epoch_every_image() -> None:
    portrait = [r["height"] > r["width"] for r in DATASET_DICTS]
    stream = list(islice(BatchStream(portrait, 2, seed=1), 200))
    assert all(len({portrait[draw.index] for draw in batch}) == 1 for batch in stream)
    counts = np.bincount([draw.index for batch in stream for draw in batch], minlength=10)
    assert counts.min() >= 38 and counts.max() <= 42


def test_processes_share_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    portrait = [False] * 7
    alone = list(islice(BatchStream(portrait, 2, seed=1), 8))
    ranks = [list(islice(BatchStream(portrait, 2, seed=1, rank=rank, world_size=2), 4)) for rank in range(2)]
    assert [batch for pair in zip(*ranks, strict=True) for batch in pair] == alone
    monkeypatch.setattr("ramses_d2.data.loader.comm.get_world_size", lambda: 4)
    with pytest.raises(ValueError, match="not a multiple of 4"):
        TrainLoader(DATASET_DICTS, noisy, total_batch_size=6, num_workers=0, seed=1)
