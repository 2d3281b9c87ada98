"""The images of a conveyor belt as one prediction run: every particle in one row, every frame with a label image."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from ramses_d2.analysis.particles import particle_row, table_of
from ramses_d2.analysis.run import ImageFile, RunFolder
from ramses_d2.analysis.stream.cleaning import cleaned
from ramses_d2.analysis.stream.frames import Frame, NumberedParticle, OpenFrames, label_of
from ramses_d2.analysis.stream.geometry import BeltOrientation
from ramses_d2.analysis.stream.instances import FrameInstances
from ramses_d2.analysis.stream.order import find_gaps, frame_numbers
from ramses_d2.analysis.stream.particle_stream import ParticleStream, Predict, StreamParticle
from ramses_d2.analysis.stream.window_store import WindowStore
from ramses_d2.draw import draw_instances
from ramses_d2.errors import RamsesError

Read = Callable[[ImageFile], np.ndarray]
WINDOWS = "windows"
BELT_COLUMNS = ("particle", "belt_x0", "belt_x1", "belt_y0", "belt_y1")


@dataclass(frozen=True)
class StreamSettings:
    """How the frames lie on the belt, and what counts.

    Attributes:
        overlap, axis, direction, window, keep_cut: see :class:`~ramses_d2.analysis.stream.ParticleStream`.
        fragments, min_area_px, min_area_mm2: see :func:`~ramses_d2.analysis.particles.handle_fragments`.
        overlays: draw the outlines on every frame.
    """

    overlap: int = 0
    axis: str = "rows"
    direction: str = "forward"
    window: int | None = None
    keep_cut: bool = True
    fragments: str = "drop"
    min_area_px: float = 0
    min_area_mm2: float | None = None
    overlays: bool = True


def remove_windows(run: RunFolder) -> None:
    """Remove what a complete run does not need any more."""
    shutil.rmtree(run.output / WINDOWS, ignore_errors=True)


class StreamRun:
    """Predicts a belt into a run folder, see docs/streams.md for what is in it.

    Args:
        run: the folder.
        predict: image -> its particles, see :class:`~ramses_d2.analysis.stream.ParticleStream`.
        read: image -> (H, W, 3) uint8 RGB.
        resolution: px/mm of all frames, NaN = unknown.
        settings: of the belt.
        warn: takes sentences for the user.
    """

    def __init__(
        self,
        run: RunFolder,
        predict: Predict,
        read: Read,
        resolution: float,
        settings: StreamSettings,
        warn: Callable[[str], None],
    ) -> None:
        self._run, self._read, self._resolution = run, read, resolution
        self._predict, self._settings, self._warn = predict, settings, warn
        self._orientation = BeltOrientation(settings.axis, settings.direction)
        self._stream = ParticleStream(
            WindowStore(run.output / WINDOWS, self._begin, run.resumed),
            overlap=settings.overlap,
            axis=settings.axis,
            direction=settings.direction,
            window=settings.window,
        )
        self._open = OpenFrames()
        self._count = 0
        self.failed: list[tuple[str, str]] = []
        self._notes: list[str] = []

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
                self._settle(self._stream.cut(), None)
            try:
                image = self._read(image_file)
            except RamsesError as error:
                self.failed.append((str(image_file.path), str(error)))
                self._warn(f"skipped: {error}; the belt is cut there")
                self._settle(self._stream.cut(), None)
            else:
                try:
                    particles = self._stream.push(image)
                except RamsesError as error:
                    raise RamsesError(f"{image_file.path}: {error}") from error
                frame = len(self._stream.frame_rows) - 1
                self._open.open(Frame(frame, image_file, image.shape[:2], self._stream.frame_rows[frame]))
                del image  # what settles now reads the images that it draws on
                self._settle(particles, self._stream.settled_row)
            yield self._count
        self._settle(self._stream.cut(), None)
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

    def _begin(self, image: np.ndarray) -> FrameInstances:
        """Predict a window; the folder is made when the first one is due, and the frames are known to fit."""
        self._run.start()
        return self._predict(image)

    def _settle(self, particles: Sequence[StreamParticle], row: int | None) -> None:
        """Take particles that are finished, and write the frames above a belt row."""
        numbered = []
        for particle in particles:
            parts = cleaned(
                particle,
                self._orientation,
                self._stream.frame_rows,
                mode=self._settings.fragments,
                min_area_px=self._settings.min_area_px,
                min_area_mm2=self._settings.min_area_mm2,
                resolution=self._resolution,
            )
            for part in parts:
                if part.cut and not self._settings.keep_cut:  # only now: a stray part may be all that was cut
                    continue
                self._count += 1
                numbered.append(NumberedParticle(self._count, part))
        self._open.add(numbered)
        for frame in self._open.settled(row):
            self._write(frame)

    def _write(self, frame: Frame) -> None:
        labels = frame.paint(self._orientation)
        names = self._run.class_names
        table = table_of([self._row(frame.image, one, names) for one in frame.starting], BELT_COLUMNS)
        seen = _visible(frame, labels, names)
        overlay = self._overlay(frame, labels, seen) if self._settings.overlays else None
        self._run.add(frame.image, frame.size, self._resolution, labels, table, overlay, seen)

    def _row(self, image: ImageFile, one: NumberedParticle, names: Sequence[str]) -> dict[str, Any]:
        particle = one.particle
        row = particle_row(
            particle.mask,
            baseimg=image.path.name,
            label=label_of(one.number),
            class_name=names[particle.class_id],
            mass=particle.mass,
            score=particle.score,
            resolution=self._resolution,
            origin=(particle.box[1], particle.box[0]),
            edges=particle.edges,
        )
        belt = (one.number, *particle.belt_rows, *particle.belt_columns)
        return row | dict(zip(BELT_COLUMNS, belt, strict=True))

    def _overlay(self, frame: Frame, labels: np.ndarray, seen: pd.DataFrame) -> np.ndarray:
        """Outlines of what a frame shows of its particles, with the mass of the whole particle."""
        names = self._run.class_names
        numbers = np.zeros(int(labels.max(initial=0)) + 1, np.uint16)
        numbers[seen["label"]] = np.arange(1, len(seen) + 1)
        whole = {label_of(one.number): one.particle for one in frame.particles}
        shown = [whole[label] for label in seen["label"]]
        return draw_instances(
            self._read(frame.image),
            numbers[labels],
            np.array([particle.class_id for particle in shown], np.int64),
            np.array([particle.score for particle in shown], float),
            np.array([particle.mass for particle in shown], float),
            class_names=names,
            alpha=0,
        )


def _visible(frame: Frame, labels: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """The part of each particle that a frame shows, for its COCO annotations; the mass is shared by area."""
    boxes = ndimage.find_objects(labels.astype(np.int32))
    columns, rows = ["label", "class", "score", "mass", "area", "x0", "x1", "y0", "y1", "particle"], []
    for one in frame.particles:
        label, particle = label_of(one.number), one.particle
        box = boxes[label - 1] if label <= len(boxes) else None
        if box is None:  # another particle covers it here
            continue
        area = np.count_nonzero(labels[box] == label)
        mass = particle.mass * area / np.count_nonzero(particle.mask)
        edges = (box[0].start, box[0].stop, box[1].start, box[1].stop)
        rows.append((label, names[particle.class_id], particle.score, mass, area, *edges, one.number))
    return pd.DataFrame(rows, columns=columns)
