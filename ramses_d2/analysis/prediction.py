"""The pictures to predict, and the folder that the predictions are written to."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import pandas as pd
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances
from PIL import Image

from ..data import register
from ..data.folder import IMAGE_SUFFIXES
from ..errors import RamsesError
from .drawing import draw_instances
from .label_image import masks_in_boxes, paint_label_image
from .particles import COLUMNS, particle_table

# What a folder of predictions holds: --force replaces nothing else
_ENTRIES = {"annotations.csv", "labels", "overlays"}


class Picture(NamedTuple):
    """A picture to predict: its file, its name without extension in the output, and px/mm (None = unknown)."""

    path: Path
    name: str
    resolution: float | None


def find_pictures(source: str, resolution: float | None) -> list[Picture]:
    """Resolve a picture, a folder of pictures or a dataset URI.

    Args:
        source: see above.
        resolution: px/mm of all pictures; None = the data set's, or unknown.

    Returns:
        pictures in order of their names, each with a name of its own.

    Raises:
        RamsesError: nothing there, or no picture in it.
    """
    if "://" in source:
        records = {record["image_id"]: record for record in DatasetCatalog.get(register(source))}.values()
        found = [
            Picture(Path(r["file_name"]), Path(r["file_name"]).stem, resolution or r["resolution"]) for r in records
        ]
    elif Path(source).is_dir():
        paths = sorted(path for path in Path(source).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        found = [Picture(path, path.stem, resolution) for path in paths]
    elif Path(source).is_file():
        found = [Picture(Path(source), Path(source).stem, resolution)]
    else:
        raise RamsesError(f"{source}: no such picture or folder")
    if not found:
        raise RamsesError(f"{source}: no picture in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return _with_unique_names(found)


def _with_unique_names(pictures: list[Picture]) -> list[Picture]:
    """Tell pictures of one name apart (a.jpg and a.png, or two folders) by a number."""
    seen: dict[str, int] = {}
    unique = []
    for picture in pictures:
        seen[picture.name] = seen.get(picture.name, 0) + 1
        number = seen[picture.name]
        unique.append(picture if number == 1 else picture._replace(name=f"{picture.name}-{number}"))
    return unique


class PredictionWriter:
    """Writes annotations.csv, labels/ and overlays/ into a folder that appears only when all is done.

    Args:
        output: folder to make.
        class_names: of the network's classes.
        force: replace an existing folder.

    Raises:
        RamsesError: the folder exists and ``force`` is not given.
    """

    def __init__(self, output: str, class_names: Sequence[str], *, force: bool = False) -> None:
        self.output = Path(output)
        if self.output.exists() and not force:
            raise RamsesError(f"{output} exists: choose another --output, or replace it with --force")
        if self.output.exists() and {path.name for path in self.output.iterdir()} != _ENTRIES:
            raise RamsesError(f"{output} holds other things than {', '.join(sorted(_ENTRIES))} and is not replaced")
        self.class_names = list(class_names)
        self.num_particles = 0
        self.num_weighed = 0
        self._weighs = False
        self.total_mass = 0.0
        self._partial = self.output.with_name(f"{self.output.name}.unfinished-{os.getpid()}")
        self._tables: list[pd.DataFrame] = []

    def __enter__(self) -> PredictionWriter:
        for name in ("labels", "overlays"):
            (self._partial / name).mkdir(parents=True)
        return self

    def add(self, picture: Picture, image: np.ndarray, instances: Instances, resolution: float) -> None:
        """Write one picture.

        Args:
            picture: its file and name.
            image: (H, W, 3) uint8 RGB.
            instances: prediction, on any device.
            resolution: px/mm, NaN = unknown.
        """
        instances = instances.to("cpu")
        scores = instances.scores.numpy()
        has_masses = instances.has("pred_masses")
        self._weighs |= has_masses
        masses = instances.pred_masses.numpy() if has_masses else np.full(len(scores), math.nan)
        classes = instances.pred_classes.tolist()
        names = [self.class_names[index] for index in classes]
        boxes = instances.pred_boxes.tensor.numpy()
        labels = paint_label_image(masks_in_boxes(instances.pred_masks, boxes), boxes, scores, image.shape[:2])
        table = particle_table(picture.path.name, labels, names, masses, scores, resolution)
        overlay = draw_instances(image, labels, classes, scores, masses, class_names=self.class_names, alpha=0)
        Image.fromarray(labels).save(self._partial / "labels" / f"{picture.name}.png")
        Image.fromarray(overlay).save(self._partial / "overlays" / f"{picture.name}.jpg", quality=92)
        self._tables.append(table)
        self.num_particles += len(table)
        self.num_weighed += int(table["mass"].notna().sum())
        self.total_mass += float(table["mass"].sum())

    def summary(self) -> str:
        """Particles so far, and their grams where the network weighs; unknown masses are no grams."""
        if not self.num_particles:
            return "no particles"
        if not self._weighs:
            return f"{self.num_particles} particles"
        if not self.num_weighed:
            return f"{self.num_particles} particles, mass unknown"
        unknown = self.num_particles - self.num_weighed
        return f"{self.num_particles} particles, {self.total_mass:.4g} g" + (
            f" ({unknown} not weighed)" if unknown else ""
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        filled = [table for table in self._tables if len(table)]
        everything = pd.concat(filled) if filled else pd.DataFrame(columns=COLUMNS)
        everything.to_csv(self._partial / "annotations.csv", index=False, na_rep="nan", float_format="%.6g")
        if self.output.exists():
            old = self._partial.with_name(f"{self._partial.name}.old")
            self.output.rename(old)
            self._partial.rename(self.output)
            shutil.rmtree(old)
        else:
            self._partial.rename(self.output)
