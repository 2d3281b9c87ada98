"""Checkpoints that are whole or absent, and the choice of the one that ``--resume`` continues from.

A file is written under another name, flushed to the disk and renamed, and ``last_checkpoint`` follows only then: a
kill, a power cut or a full disk at any moment leaves the checkpoints before it as they were. Reading checks every byte
against the file's own checksums, and never executes what is in a file.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from ramses_d2.checkpoint.load import check_keys, read_checkpoint
from ramses_d2.errors import RamsesError
from ramses_d2.files import atomic_path

logger = logging.getLogger(__name__)

BEST = "model_best.pth"  # weights alone, not the state of a training
_CHECKPOINT = re.compile(r"model_(\d+|final)\.pth")
# What the zip format raises for files that are truncated, overwritten or no checkpoint at all
_UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError, ValueError)


class CheckpointError(RamsesError):
    """A checkpoint that cannot or must not be written; those before it are intact."""


class TrainingCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer of a training, with files that appear whole or not at all."""

    resumed_from: Path | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth``, with ``kwargs`` in it, and make it the last checkpoint.

        Raises a CheckpointError where the disk is full or a weight is not finite; nothing is left behind then.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content: dict[str, Any] = {"model": self.model.state_dict()}
        for key, checkpointable in self.checkpointables.items():
            content[key] = _plain(checkpointable.state_dict(), key)
        content |= _plain(kwargs, name)
        path = Path(self.save_dir) / f"{name}.pth"
        _check_finite(content, path)
        logger.info("Saving checkpoint to %s", path)
        size = sum(tensor.nbytes for _, tensor in _tensors(content, ""))
        _write(path, size, lambda stream: torch.save(content, stream))
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make a file the one that a resume continues from."""
        text = last_filename_basename.encode()
        _write(Path(self.save_dir) / "last_checkpoint", len(text), lambda stream: stream.write(text))

    def resume(self) -> bool:
        """Load the checkpoint to continue from, False where there is none at all; every process must call it.

        A machine that does not see the folder of the main process gets its checkpoint from there.
        """
        path, content, size = None, None, 0
        if comm.is_main_process():
            for unfinished in Path(self.save_dir).glob("*.unfinished*"):
                unfinished.unlink()
            path, content = self._find_checkpoint_to_resume()
            if path is None:
                _keep_best(Path(self.save_dir))
            size = path.stat().st_size if path else 0
        path, size = comm.all_gather((path, size))[0]
        if path is None:
            logger.info("%s holds no checkpoint: the training starts from the beginning", self.save_dir)
            return False
        if not all(comm.all_gather(path.is_file() and path.stat().st_size == size)):
            holder = [content]
            torch.distributed.broadcast_object_list(holder, src=0)
            content = holder[0]
        elif content is None:
            content = read_checkpoint(path)
        check_keys(self.model, content["model"], str(path))
        self.model.load_state_dict(content["model"])
        for key, checkpointable in self.checkpointables.items():
            if key in content:
                checkpointable.load_state_dict(content[key])
        self.resumed_from = path
        logger.info("Continuing from %s", path)
        return True

    def _find_checkpoint_to_resume(self) -> tuple[Path | None, Mapping[str, Any] | None]:
        """The first candidate that can be read completely, and what is in it; the others are skipped with a warning."""
        candidates = self._candidates_to_resume()
        for path, following in itertools.zip_longest(candidates, candidates[1:]):
            try:
                return path, read_training(path)
            except RamsesError as error:
                if following is None:
                    raise RamsesError(
                        f"{error}; none of the {len(candidates)} checkpoints in {self.save_dir} can be read "
                        f"({', '.join(each.name for each in candidates[:3])}): start anew in another OUTPUT_DIR"
                    ) from error
                logger.warning("%s: skipped, trying %s", error, following.name)
        return None, None

    def _candidates_to_resume(self) -> list[Path]:
        """The one in ``last_checkpoint``, those before it from the newest on, and those after it as the last resort."""
        found = {path: _iteration(path) for path in checkpoints_in(self.save_dir)}
        paths = sorted(found, key=lambda path: (found[path], path.name), reverse=True)
        last = Path(self.get_checkpoint_file() or self.save_dir)
        if last not in found:
            return [last, *paths] if last.is_file() else paths  # a file named by hand comes first
        others = [path for path in paths if path != last]
        return [last, *sorted(others, key=lambda path: found[path] > found[last])]


class WeightsOnly(TrainingCheckpointer):
    """Saves weights beside the training's checkpoints, without becoming the one that ``--resume`` picks up."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        pass


def checkpoints_in(folder: str | Path) -> list[Path]:
    """Finished checkpoints of a training, those of the best weights not among them."""
    return [path for path in Path(folder).glob("model_*.pth") if _CHECKPOINT.fullmatch(path.name)]


def holds_training(folder: str | Path) -> bool:
    """Whether a folder has checkpoints of a training, or its best weights, which may be there before any other."""
    return bool(checkpoints_in(folder)) or (Path(folder) / BEST).is_file()


def _keep_best(folder: Path) -> None:
    """Rename the best weights of a training that was stopped before its first checkpoint: the new one has its own."""
    best = folder / BEST
    if best.is_file():
        names = (best.with_stem(f"{best.stem}_earlier{number}") for number in itertools.count(1))
        kept = best.rename(next(name for name in names if not name.exists()))
        logger.warning("The best weights of the training that was stopped before its first checkpoint are now %s", kept)


def read_training(path: Path) -> Mapping[str, Any]:
    """Read a checkpoint of a training, and check that all of it is as it was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not compare checksums
    except _UNREADABLE as error:
        raise RamsesError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    if damaged:
        raise RamsesError(f"{path}: the checkpoint is damaged ({damaged})")
    content = read_checkpoint(path)
    if "model" not in content or "trainer" not in content:
        raise RamsesError(f"{path}: holds weights, but not the state of a training; use it as MODEL.WEIGHTS")
    return content


def _iteration(path: Path) -> float:
    """Last step of a checkpoint; a final one says it inside, and is the newest if it cannot be asked."""
    if path.stem != "model_final":
        return int(path.stem.removeprefix("model_"))
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)["iteration"]
    except Exception:  # what is wrong with it is said when its turn to be read comes
        return float("inf")


def _write(path: Path, size: int, write: Callable[[IO[bytes]], object]) -> None:
    """Fill a file, of about ``size`` bytes, so that it is whole under its name or not there, even after a power cut."""
    try:
        with atomic_path(path) as unfinished, unfinished.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        if hasattr(os, "O_DIRECTORY"):  # the new name itself
            folder = os.open(path.parent, os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):  # torch.save makes a RuntimeError of it
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        free = shutil.disk_usage(path.parent).free / 1e6 if path.parent.is_dir() else 0.0
        raise CheckpointError(
            f"{path}: cannot be written ({cause.strerror or cause}): it needs {size / 1e6:.1f} MB, {free:.1f} MB are "
            f"free; the checkpoints before it are intact, make room and continue with --resume"
        ) from error


def _plain(value: Any, where: str) -> Any:
    """The same value with what ``torch.load(weights_only=True)`` reads; NumPy's numbers become Python's."""
    if isinstance(value, Mapping):
        kind = type(value) if type(value) in (OrderedDict, Counter) else dict
        return kind({_plain(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        items = [_plain(item, f"{where}.{index}") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.item() if isinstance(value, np.generic) else torch.from_numpy(value)
    if value is None or isinstance(value, (torch.Tensor, bool, int, float, str, bytes)):
        return value
    raise TypeError(f"{where}: a {type(value).__name__} cannot go into a checkpoint")


def _tensors(value: Any, where: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield where, value
    elif isinstance(value, (Mapping, list, tuple)):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _tensors(item, f"{where}.{key}" if where else str(key))


def _check_finite(content: Mapping[str, Any], path: Path) -> None:
    """Raise where a weight, or its moving average, is not a number: such a file must never follow a good one."""
    weights = {key: content[key] for key in ("model", "ema") if key in content}
    bad = [name for name, tensor in _tensors(weights, "") if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"{path}: not written, {len(bad)} weights are not finite ({', '.join(bad[:3])}); the checkpoints before it "
            f"are good: lower SOLVER.BASE_LR or set SOLVER.CLIP_GRADIENTS, and continue with --resume"
        )
