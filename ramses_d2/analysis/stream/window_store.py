"""What the network saw in each window of a belt, on disk: a killed run looks at no window twice.

The windows of a belt follow from its frames and from what was found in the windows before. So a run that begins again
asks for the same windows in the same order, and gets the same answers; where its pixels have changed, it looks again.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ramses_d2.analysis.stream.instances import FrameInstances
from ramses_d2.analysis.stream.particle_stream import Predict


class WindowStore:
    """A ``predict`` that answers from the disk where it can.

    Args:
        folder: made when the first window is stored; the caller removes it when the belt is done.
        predict: see :class:`~ramses_d2.analysis.stream.ParticleStream`.
        resumed: False = what is in the folder is of another run.
    """

    def __init__(self, folder: Path, predict: Predict, resumed: bool = True) -> None:
        self._folder = folder
        self._resumed = resumed
        self._predict = predict
        self._count = 0

    def __call__(self, image: np.ndarray) -> FrameInstances:
        """Find the particles of the next window."""
        path = self._folder / f"{self._count:06d}.npz"
        self._count += 1
        digest = hashlib.blake2b(image.tobytes(), person=str(image.shape)[:16].encode()).hexdigest()
        found = _load(path, digest) if self._resumed and path.is_file() else None
        if found is None:
            found = self._predict(image)
            _save(path, digest, found)
        return found


def _save(path: Path, digest: str, found: FrameInstances) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    bits = np.concatenate([mask.ravel() for mask in found.masks]) if len(found) else np.zeros(0, bool)
    with partial.open("wb") as stream:
        np.savez_compressed(
            stream,
            digest=np.array(digest),
            boxes=found.boxes,
            classes=found.classes,
            scores=found.scores,
            masses=found.masses,
            bits=np.packbits(bits),
        )
    partial.replace(path)


def _load(path: Path, digest: str) -> FrameInstances | None:
    """The stored window; None if it cannot be read or is one of other images."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["digest"]) != digest:
                return None
            boxes = stored["boxes"]
            shapes = [(int(y1 - y0), int(x1 - x0)) for x0, y0, x1, y1 in boxes]
            areas = [height * width for height, width in shapes]
            bits = np.unpackbits(stored["bits"], count=sum(areas)).astype(bool)
            flat = np.split(bits, np.cumsum(areas)[:-1]) if areas else []
            masks = [mask.reshape(shape) for mask, shape in zip(flat, shapes, strict=True)]
            return FrameInstances(masks, boxes, stored["classes"], stored["scores"], stored["masses"])
    except (OSError, ValueError, LookupError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return None
