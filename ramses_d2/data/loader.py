"""The training stream: endless batches that are a pure function of the seed and the step.

Detectron2's sampler starts from the beginning after a resume, and what a data-loader worker draws depends on how many
workers there are. Here every image of every batch is numbered, and its augmentation is seeded by that number: a
resumed run continues with exactly the images and augmentations the interrupted one would have had, with any number of
workers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from detectron2.data.common import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from ramses_d2.data.folder import DatasetDict
from ramses_d2.errors import RamsesError


class SampleIndex(NamedTuple):
    """The ``number``-th image of the training stream is dataset dict ``index``."""

    number: int
    index: int


def _identity(batch: list[DatasetDict]) -> list[DatasetDict]:
    return batch


class SeededDataset(Dataset):
    """Maps a :class:`SampleIndex` to a training example; its number seeds the mapper's random numbers."""

    def __init__(
        self, dataset_dicts: Sequence[DatasetDict], mapper: Callable[[DatasetDict], DatasetDict], seed: int
    ) -> None:
        # One serialised copy, shared by forked workers
        self.dataset_dicts = DatasetFromList(list(dataset_dicts), copy=False)
        self.mapper = mapper
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset_dicts)

    def __getitem__(self, sample: SampleIndex) -> DatasetDict:
        state = np.random.SeedSequence([self.seed, sample.number]).generate_state(2)
        np.random.seed(state[0])
        random.seed(int(state[1]))
        return self.mapper(self.dataset_dicts[sample.index])


class BatchStream(Sampler[list[SampleIndex]]):
    """Endless batches of samples: every epoch a new permutation, images of one orientation (``portrait``) together.

    The seed is the same on every process; process ``rank`` takes every ``world_size``-th batch.
    """

    def __init__(
        self, portrait: Sequence[bool], batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.portrait = list(portrait)
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.world_size = rank, world_size
        self.start = 0

    def _global_batches(self) -> Iterator[list[SampleIndex]]:
        waiting: dict[bool, list[SampleIndex]] = {False: [], True: []}
        number = epoch = 0
        while True:
            for index in np.random.default_rng([self.seed, epoch]).permutation(len(self.portrait)):
                bucket = waiting[self.portrait[index]]
                bucket.append(SampleIndex(number, int(index)))
                number += 1
                if len(bucket) == self.batch_size:
                    yield bucket.copy()
                    bucket.clear()
            epoch += 1

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        return islice(self._global_batches(), self.rank + self.start * self.world_size, None, self.world_size)


class TrainLoader:
    """Iterable over training batches, from step ``start`` on; nothing is loaded before the first batch is asked for.

    ``total_batch_size`` counts the images per step over all processes; the seed is the same on every process.
    """

    def __init__(
        self,
        dataset_dicts: Sequence[DatasetDict],
        mapper: Callable[[DatasetDict], DatasetDict],
        *,
        total_batch_size: int,
        num_workers: int,
        seed: int,
    ) -> None:
        world_size = comm.get_world_size()
        if total_batch_size % world_size:
            raise RamsesError(f"SOLVER.IMS_PER_BATCH {total_batch_size} is not a multiple of {world_size} processes")
        self.dataset = SeededDataset(dataset_dicts, mapper, seed)
        portrait = [dataset_dict["height"] > dataset_dict["width"] for dataset_dict in dataset_dicts]
        self.stream = BatchStream(portrait, total_batch_size // world_size, seed, comm.get_rank(), world_size)
        self.num_workers = num_workers

    def start_at(self, step: int) -> None:
        """Begin with the batch of this step."""
        self.stream.start = step

    def __iter__(self) -> Iterator[list[DatasetDict]]:
        # A generator, so that a resumed trainer can still choose the step after Detectron2 has called iter()
        yield from DataLoader(
            self.dataset,
            batch_sampler=self.stream,
            num_workers=self.num_workers,
            collate_fn=_identity,
            generator=torch.Generator(),  # or it would draw from the generator of the network
        )
