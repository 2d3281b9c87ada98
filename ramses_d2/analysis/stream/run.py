"""The images of a conveyor belt as one prediction run: every particle in one row, every frame with a label image."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from ramses_d2.analysis.particles import handle_fragments, particle_row, table_of
from ramses_d2.analysis.run import ImageFile, RunFolder
from ramses_d2.analysis.stream.belt import ParticleStream, Predict, StreamParticle, find_gaps, frame_numbers
from ramses_d2.analysis.stream.stitch import FrameInstances
from ramses_d2.draw import draw_instances
from ramses_d2.errors import RamsesError
from ramses_d2.files import atomic_file

WINDOWS = "windows"
BELT_COLUMNS = ("particle", "belt_x0", "belt_x1", "belt_y0", "belt_y1")
SEEN_COLUMNS = ("label", "class", "score", "mass", "area", "x0", "x1", "y0", "y1", "particle")
# A label image holds numbers up to 65535; a belt may hold more particles, a frame never does
LARGEST_LABEL = np.iinfo(np.uint16).max


class WindowStore:
    """A ``predict`` that answers from files where it can, so that a killed run looks at no window of the belt twice.

    The windows of a belt follow from its frames and from what was found in the windows before: a run that begins again
    asks for the same ones in the same order. Where their pixels have changed, or ``resumed`` is False, it looks again.
    """

    def __init__(self, folder: Path, predict: Predict, resumed: bool = True) -> None:
        self._folder, self._predict, self._resumed = folder, predict, resumed
        self._count = 0

    def __call__(self, image: np.ndarray) -> FrameInstances:
        path = self._folder / f"{self._count:06d}.npz"
        self._count += 1
        digest = hashlib.blake2b(image.tobytes(), person=str(image.shape)[:16].encode()).hexdigest()
        found = _stored(path, digest) if self._resumed and path.is_file() else None
        if found is None:
            found = self._predict(image)
            self._folder.mkdir(parents=True, exist_ok=True)
            bits = np.packbits(np.concatenate([np.zeros(0, bool), *(mask.ravel() for mask in found.masks)]))
            numbers = {name: getattr(found, name) for name in ("boxes", "classes", "scores", "masses")}
            with atomic_file(path, "wb") as stream:
                np.savez_compressed(stream, digest=np.array(digest), bits=bits, **numbers)
        return found


def _stored(path: Path, digest: str) -> FrameInstances | None:
    """The stored window; None if it cannot be read or is one of other images."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["digest"]) != digest:
                return None
            sizes = stored["boxes"][:, [3, 2]] - stored["boxes"][:, [1, 0]]
            bits = np.unpackbits(stored["bits"], count=int(sizes.prod(axis=1).sum())).astype(bool)
            flat = np.split(bits, np.cumsum(sizes.prod(axis=1)))[:-1]
            masks = [mask.reshape(size) for mask, size in zip(flat, sizes, strict=True)]
            return FrameInstances(masks, *(stored[name] for name in ("boxes", "classes", "scores", "masses")))
    except (OSError, ValueError, LookupError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return None


class Frame(NamedTuple):
    """An image of the belt and its belt rows, with the particles that it shows, by their number on the belt."""

    index: int
    image: ImageFile
    size: tuple[int, int]
    rows: tuple[int, int]
    particles: dict[int, StreamParticle]


def label_of(number: int) -> int:
    """Value in the label images of particle ``number`` of the belt, from 1 on: the same in every frame."""
    return (number - 1) % LARGEST_LABEL + 1


def remove_windows(run: RunFolder) -> None:
    """Remove what a complete run does not need any more."""
    shutil.rmtree(run.output / WINDOWS, ignore_errors=True)


class StreamRun:
    """Predicts a belt into a run folder (docs/streams.md): ``read`` gives (H, W, 3) RGB, ``warn`` tells the user.

    Fragments and smallest areas are those of ``handle_fragments``, and ``stream`` the settings of ``ParticleStream``.
    """

    def __init__(
        self,
        run: RunFolder,
        predict: Predict,
        read: Callable[[ImageFile], np.ndarray],
        resolution: float,
        warn: Callable[[str], None],
        *,
        fragments: str = "drop",
        min_area_px: float = 0,
        min_area_mm2: float | None = None,
        overlays: bool = True,
        **stream: Any,
    ) -> None:
        self._run, self._read, self._resolution, self._warn, self._overlays = run, read, resolution, warn, overlays
        areas = {"min_area_px": min_area_px, "min_area_mm2": min_area_mm2, "resolution": resolution}

        def begin(image: np.ndarray) -> FrameInstances:
            run.start()  # makes the folder when the first window is due, and the frames are known to fit
            return predict(image)

        store = WindowStore(run.output / WINDOWS, begin, run.resumed)
        self._stream = ParticleStream(store, clean=partial(handle_fragments, mode=fragments, **areas), **stream)
        self._frames: list[Frame] = []  # those that a particle to come may touch
        self._count = 0
        self._notes: list[str] = []
        self.failed: list[tuple[str, str]] = []

    def frames(self, images: Sequence[ImageFile]) -> Iterator[int]:
        """Predict the frames in their order; yields the number of particles known after each one.

        A frame that cannot be read is noted in :attr:`failed`, and the belt is cut there as where one is missing.
        """
        paths = [image_file.path for image_file in images]
        gaps = {gap.index: gap.message for gap in find_gaps(paths)}
        if len(paths) > 1 and frame_numbers(paths) is None:
            self._note("the file names have no counter: a missing frame cannot be noticed")
        for index, image_file in enumerate(images):
            if index in gaps:
                self._note(f"{gaps[index]}: the belt is cut there")
                self._settle(self._stream.cut())
            try:
                image = self._read(image_file)
            except RamsesError as error:
                self.failed.append((str(image_file.path), str(error)))
                self._warn(f"skipped: {error}; the belt is cut there")
                self._settle(self._stream.cut())
            else:
                try:
                    particles = self._stream.push(image)
                except RamsesError as error:
                    raise RamsesError(f"{image_file.path}: {error}") from error
                rows = self._stream.frame_rows
                self._frames.append(Frame(len(rows) - 1, image_file, image.shape[:2], rows[-1], {}))
                del image  # what settles now reads the images that it draws on
                self._settle(particles, self._stream.settled_row)
            yield self._count
        self._settle(self._stream.cut())
        yield self._count

    def finish(self) -> pd.DataFrame:
        """Write the tables of the whole belt; returns the particle table."""
        table = self._run.finish(self.failed, self._notes)
        remove_windows(self._run)
        return table

    def _note(self, sentence: str) -> None:
        """Tell the user, and whoever reads the run later."""
        self._notes.append(sentence)
        self._warn(sentence)

    def _settle(self, particles: Sequence[StreamParticle], row: int | None = None) -> None:
        """Give finished particles to the frames that show them, and write the frames above a belt row (None: all)."""
        for particle in particles:
            self._count += 1
            first, last = particle.belt_rows
            for frame in self._frames:
                if frame.rows[0] < last and first < frame.rows[1]:
                    frame.particles[self._count] = particle
        while self._frames and (row is None or self._frames[0].rows[1] <= row):
            self._write(self._frames.pop(0))

    def _write(self, frame: Frame) -> None:
        """Write a frame's label image, the rows of the particles that start in it, and what it shows of any."""
        labels, names, starting, seen = self._painted(frame), self._run.class_names, [], []
        boxes = ndimage.find_objects(labels, max_label=LARGEST_LABEL)
        for number, particle in frame.particles.items():
            label, name = label_of(number), names[particle.class_id]
            about = {"mass": particle.mass, "score": particle.score, "label": label, "class_name": name}
            if particle.frame == frame.index:  # it is counted here and nowhere else
                about |= {"baseimg": frame.image.path.name, "resolution": self._resolution, "edges": particle.edges}
                row = particle_row(particle.mask, origin=(particle.box[1], particle.box[0]), **about)
                place = (number, *particle.belt_rows, *particle.belt_columns)
                starting.append(row | dict(zip(BELT_COLUMNS, place, strict=True)))
            if box := boxes[label - 1]:  # else another particle covers it here
                area = np.count_nonzero(labels[box] == label)
                mass = particle.mass * area / np.count_nonzero(particle.mask)
                edges = (box[0].start, box[0].stop, box[1].start, box[1].stop)
                seen.append((label, name, particle.score, mass, area, *edges, number))
        overlay = self._overlay(frame, labels, [row[-1] for row in seen]) if self._overlays else None
        table, shown = table_of(starting, BELT_COLUMNS), pd.DataFrame(seen, columns=SEEN_COLUMNS)
        self._run.add(frame.image, frame.size, self._resolution, labels, table, overlay, shown)

    def _painted(self, frame: Frame) -> np.ndarray:
        """Label image (H, W) uint16; of two particles that claim a pixel the surer one has it."""
        labels, to_belt = np.zeros(frame.size, np.uint16), self._stream.orientation.to_belt
        start, end = frame.rows
        for number, particle in sorted(frame.particles.items(), key=lambda one: one[1].score):
            (first, last), columns = particle.belt_rows, slice(*particle.belt_columns)
            mask = to_belt(particle.mask)[max(start - first, 0) : end - first]
            to_belt(labels)[max(first - start, 0) : last - start, columns][mask] = label_of(number)  # through a view
        return labels

    def _overlay(self, frame: Frame, labels: np.ndarray, seen: list[int]) -> np.ndarray:
        """Outlines of what a frame shows of the particles ``seen`` in it, with the mass of the whole particle."""
        renumbered = np.zeros(LARGEST_LABEL + 1, np.uint16)
        renumbered[[label_of(number) for number in seen]] = np.arange(1, len(seen) + 1)
        shown = [frame.particles[number] for number in seen]
        classes = np.array([particle.class_id for particle in shown], np.int64)
        scores, masses = np.array([(particle.score, particle.mass) for particle in shown], float).reshape(-1, 2).T
        image, names = self._read(frame.image), self._run.class_names
        return draw_instances(image, renumbered[labels], classes, scores, masses, class_names=names, alpha=0)
