"""A conveyor belt seen by a line-scan camera: one long scene cut into consecutive frames.

Every stone lies on the belt whole, and the frames cut it where they end. ``belt.csv`` holds the truth of the belt, one
row per stone; ``belt_label`` in annotations.csv says which stone a row of a frame is a part of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from ramses_d2.data.synthetic.scene import Scene, SceneConfig, render_scene
from ramses_d2.data.synthetic.writer import (
    JPEG_QUALITY,
    SYNTHETIC_TAG,
    annotate,
    class_ids,
    new_folder,
    write_image,
    write_json,
)
from ramses_d2.errors import RamsesError


def frame_name(index: int) -> str:
    """Base name of frame ``index``."""
    return f"frame_{index + 1:05d}"


def frame_starts(frames: int, height: int, overlap: int) -> list[int]:
    """First belt row of every frame of ``height`` rows, of which the last ``overlap`` are seen again by the next."""
    return [index * (height - overlap) for index in range(frames)]


def cut_frames(belt: Scene, starts: list[int], height: int) -> Iterator[tuple[Scene, np.ndarray]]:
    """Cut a belt along its rows.

    Args:
        belt: the whole belt.
        starts: first row of every frame.
        height: rows of a frame.

    Yields:
        the frame, its stones renumbered 1..K and the mass of a cut stone NaN; and (K,) their labels on the belt.
    """
    whole = np.bincount(belt.labels.ravel(), minlength=len(belt.classes) + 1)
    for start in starts:
        rows = slice(start, start + height)
        labels = belt.labels[rows]
        seen, parts = np.unique(labels[labels > 0], return_counts=True)
        renumber = np.zeros(len(whole), np.uint16)
        renumber[seen] = np.arange(1, len(seen) + 1)
        index = seen.astype(int) - 1
        frame = replace(
            belt,
            image=belt.image[rows],
            labels=renumber[labels],
            classes=[belt.classes[i] for i in index],
            masses=np.where(parts < whole[seen], np.nan, belt.masses[index]),
            height_mm=belt.height_mm[rows],
            widths_mm=belt.widths_mm[index],
            thicknesses_mm=belt.thicknesses_mm[index],
        )
        yield frame, seen


def write_belt(
    output: str | Path, config: SceneConfig, frames: int, overlap: int = 0, seed: int = 1, overwrite: bool = False
) -> Path:
    """Render a belt and write its frames as a RAMSES folder; nothing is left behind when it fails.

    Args:
        output: folder to create.
        config: what a frame looks like: its size, and its number of stones.
        frames: number of consecutive frames.
        overlap: rows that consecutive frames share.
        seed: same seed, same bytes.
        overwrite: replace an existing synthetic data set.

    Returns:
        ``output``.
    """
    if frames < 1 or not 0 <= overlap < config.height:
        raise RamsesError(f"frames {frames}, overlap {overlap}: at least 1 frame, and an overlap of 0 to height - 1 px")
    if seed < 0:
        raise RamsesError(f"seed {seed}: give 0 or more")
    starts = frame_starts(frames, config.height, overlap)
    length = starts[-1] + config.height
    share = length / config.height
    low, high = (round(number * share) for number in config.stones)
    belt_config = replace(config, height=length, stones=(max(low, 1), max(high, 1)), border=False)
    with new_folder(Path(output), overwrite) as folder:
        belt = render_scene(belt_config, np.random.default_rng([seed]))
        (folder / "images").mkdir()
        (folder / "labels").mkdir()
        tables = []
        for index, (frame, belt_labels) in enumerate(cut_frames(belt, starts, config.height)):
            name = frame_name(index)
            image = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
            write_image(folder / "images" / f"{name}.jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            write_image(folder / "labels" / f"{name}.png", frame.labels, [])
            tables.append(annotate(frame, name).assign(belt_label=belt_labels))
        rows = pd.concat(tables, ignore_index=True)
        rows.to_csv(folder / "annotations.csv", index=False, na_rep="nan", float_format="%.9g")
        truth = annotate(belt, "belt").rename(columns={"label": "belt_label"}).drop(columns="baseimg")
        truth.to_csv(folder / "belt.csv", index=False, na_rep="nan", float_format="%.9g")
        write_json(folder / "metadata.json", _metadata(belt, starts, config, weighed=not overlap))
        write_json(folder / "classes.json", class_ids(config))
    return Path(output)


def _metadata(belt: Scene, starts: list[int], config: SceneConfig, *, weighed: bool) -> dict:
    """``metadata.json``: every frame with its first belt row, and the whole belt as one weighed batch.

    Frames that overlap show some stones twice, whose grams are no batch of theirs: ``weighed`` is False then.
    """
    files = [f"{frame_name(index)}.jpg" for index in range(len(starts))]
    images = [
        {
            "id": index,
            "file_name": file,
            "res": belt.resolution,
            "height": config.height,
            "width": config.width,
            "camera": "synthetic",
            "date": "",
            "tag": SYNTHETIC_TAG,
            "belt_row": start,
        }
        for index, (file, start) in enumerate(zip(files, starts, strict=True), start=1)
    ]
    grams = pd.Series(belt.masses).groupby(pd.Series(belt.classes)).sum()
    batch = {"image_names": files, "mass": {k: float(g) for k, g in grams.items()}}
    return {"images": images, "batches": [batch] if weighed else []}
