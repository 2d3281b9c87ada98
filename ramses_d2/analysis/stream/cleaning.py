"""Stray parts of a belt's particles: dropped, kept or split off, as in single images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from ramses_d2.analysis.particles import handle_fragments
from ramses_d2.analysis.stream.geometry import BeltOrientation
from ramses_d2.analysis.stream.particle_stream import StreamParticle


def cleaned(
    particle: StreamParticle,
    orientation: BeltOrientation,
    frame_rows: Sequence[tuple[int, int]],
    *,
    mode: str = "drop",
    min_area_px: float = 0,
    min_area_mm2: float | None = None,
    resolution: float = math.nan,
) -> Iterator[StreamParticle]:
    """Give the particle without its stray parts, or its parts.

    Args:
        particle: of the stream.
        orientation: of the belt.
        frame_rows: first and last + 1 belt row of every frame so far.
        mode, min_area_px, min_area_mm2, resolution: see :func:`~ramses_d2.analysis.particles.handle_fragments`.
    """
    labels, parents, shares = handle_fragments(
        particle.mask.astype(np.int32),
        mode,
        min_area_px=min_area_px,
        min_area_mm2=min_area_mm2,
        resolution=resolution,
    )
    boxes = ndimage.find_objects(labels, max_label=len(parents))
    for value, (box, share) in enumerate(zip(boxes, shares, strict=True), start=1):
        if box is not None:
            mask = labels[box] == value
            yield _part(particle, orientation, frame_rows, mask, box, particle.mass * float(share))


def _part(
    particle: StreamParticle,
    orientation: BeltOrientation,
    frame_rows: Sequence[tuple[int, int]],
    mask: np.ndarray,
    box: tuple[slice, slice],
    mass: float,
) -> StreamParticle:
    """What lies in ``box`` of the particle's mask, as a particle of its own."""
    (first, last), (left, right) = particle.belt_rows, particle.belt_columns
    in_mask = np.array([[box[1].start, box[0].start, box[1].stop, box[0].stop]])
    x0, y0, x1, y1 = orientation.boxes_to_belt(in_mask, last - first)[0].tolist()
    rows, columns = (first + y0, first + y1), (left + x0, left + x1)
    kept = (rows[0] == first, rows[1] == last, columns[0] == left, columns[1] == right)
    edges = [name for name, is_kept in zip(orientation.edges, kept, strict=True) if is_kept and name in particle.edges]
    frame = next(i for i in range(particle.frame, len(frame_rows)) if rows[0] < frame_rows[i][1])
    start, end = frame_rows[frame]
    in_frame = (columns[0], rows[0] - start, columns[1], rows[1] - start)
    return replace(
        particle,
        mass=mass,
        mask=mask,
        belt_rows=rows,
        belt_columns=columns,
        frame=frame,
        box=orientation.box_to_image(in_frame, end - start),
        edges=tuple(edges),
        cut=particle.cut and bool(set(edges) & set(orientation.edges[:2])),
    )
