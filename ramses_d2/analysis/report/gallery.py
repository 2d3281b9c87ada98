"""Cut-outs of particles for a report, each with its outline and a caption, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from ramses_d2.analysis.report.data import Run, RunImage
from ramses_d2.analysis.sample import cut_by_edge
from ramses_d2.data.images import read_image, read_label_image
from ramses_d2.draw import draw_instances, plain_number
from ramses_d2.errors import RamsesError

# Side of a cut-out in px: 4 cm on paper at 300 dpi
_SIDE = 440
# Side of what is cut out, over the longer side of the particle's box; small particles get more of their surroundings
_MARGIN, _SMALLEST_SIDE = 1.5, 24
_OUTLINE = (255, 214, 10)
# How far the surroundings are bleached, so that the particle stands out without colour
_VEIL = 0.5
_JPEG_QUALITY = 85


@dataclass(frozen=True)
class CutOut:
    """A particle for the gallery.

    Attributes:
        source: JPEG as a data URI.
        name: class, and what is known of grams, millimetres and score.
        place: image and label.
    """

    source: str
    name: str
    place: str

    @property
    def description(self) -> str:
        """For those who cannot see it."""
        return f"Cut-out with the outline of particle {self.place}: {self.name}"


@dataclass(frozen=True)
class GalleryPart:
    """Particles that have something in common.

    Attributes:
        title, explanation: what.
        cut_outs: may be empty.
        missing: why there are none, or fewer; "" = nothing is missing.
    """

    title: str
    explanation: str
    cut_outs: list[CutOut]
    missing: str = ""


def make_gallery(run: Run, number: int, scale_classes: Collection[str] = ()) -> list[GalleryPart]:
    """The largest, the least certain and the edge-cut particles of a run.

    Args:
        run: with masses as they are to be shown.
        number: of particles in each part, at most.
        scale_classes: coins and the like, which are shown among the least certain only.
    """
    table = run.table
    weighed = table["mass"].notna().any()
    ordered = table.assign(size=table["mass"] if weighed else table["area"])
    ordered = ordered.sort_values("size", ascending=False, kind="stable", na_position="last")
    largest = ordered[~ordered["class"].isin(scale_classes)]
    doubtful = table[table["score"].notna()].sort_values("score", kind="stable")
    is_cut = cut_by_edge(largest)
    cut = largest.iloc[:0] if is_cut is None else largest[is_cut]
    no_cut = "no column edge in annotations.csv tells them" if is_cut is None else "no particle touches an edge"
    chosen = [
        ("Largest", f"by {'grams' if weighed else 'area'}", largest, "there are no particles"),
        ("Least certain", "lowest scores", doubtful, "no particle has a score"),
        ("Cut by the edge of the picture", f"the largest of {len(cut)}", cut, no_cut),
    ]
    chosen = [(title, text, part.head(number), "" if len(part) else why) for title, text, part, why in chosen]
    rows = pd.concat([part for _, _, part, _ in chosen])
    cut_outs = _cut_all(run, rows[~rows.index.duplicated()])
    parts = []
    for title, explanation, part, missing in chosen:
        found = [cut_outs[index] for index in part.index if index in cut_outs]
        if len(found) < len(part):
            lost = len(part) - len(found)
            missing = f"{lost} of {len(part)} cannot be shown: their image or label image was not found"
        parts.append(GalleryPart(title, explanation, found, missing))
    return parts


def _cut_all(run: Run, rows: pd.DataFrame) -> dict[int, CutOut]:
    """Cut-outs by index of the row; every image is read once."""
    cut_outs = {}
    for file_name, part in rows.groupby("baseimg", sort=False):
        # Images of two folders may have one name: the label image tells them apart
        for image in (option for option in run.images if option.file_name == file_name):
            loaded = _load(run.folder, image)
            if loaded is None:
                continue
            for index, row in part[~part.index.isin(list(cut_outs))].iterrows():
                source = cut_out(*loaded, row)
                if source is not None:
                    cut_outs[index] = CutOut(source, _name(row), f"{row['baseimg']} no. {row['label']:.0f}")
    return cut_outs


def _load(folder: Path, image: RunImage) -> tuple[np.ndarray, np.ndarray] | None:
    """Image (H, W, 3) and label image (h, w); the run's overlay stands in for an image that was not found."""
    overlay = folder / "overlays" / f"{image.name}.jpg"
    try:
        labels = read_label_image(folder / "labels" / f"{image.name}.png")
        return read_image(image.path or overlay), labels
    except (RamsesError, OSError):
        return None


def cut_out(image: np.ndarray, labels: np.ndarray, row: pd.Series) -> str | None:
    """A particle in its surroundings, outlined.

    Args:
        image: (H, W, 3) uint8 of the same view as ``labels``.
        labels: (h, w) label image.
        row: of the particle table: label, and x0, x1 (rows), y0, y1 (columns) of ``labels``.

    Returns:
        data URI of a JPEG; None where the label image does not hold the particle.
    """
    box = _box(labels, row)
    if box is None:
        return None
    rows, columns = (_widened(low, high, box, side) for (low, high), side in zip(box, labels.shape, strict=True))
    mask = (labels[slice(*rows), slice(*columns)] == int(row["label"])).astype(np.int32)
    down, across = image.shape[0] / labels.shape[0], image.shape[1] / labels.shape[1]
    part = image[round(rows[0] * down) : round(rows[1] * down), round(columns[0] * across) : round(columns[1] * across)]
    # Brought to the size of the page first, so that every outline has the same width
    scale = 2 * _SIDE / max(part.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in part.shape[1::-1])
    part = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    inside = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)[:, :, None]
    part = (part * inside + (_VEIL * 255 + (1 - _VEIL) * part) * (1 - inside)).round().astype(np.uint8)
    drawn = draw_instances(
        part, mask if scale > 1 else (inside[:, :, 0] > 0.5).astype(np.int32), colors=[_OUTLINE], alpha=0
    )
    small = cv2.resize(drawn, (size[0] // 2, size[1] // 2), interpolation=cv2.INTER_AREA)
    stream = io.BytesIO()
    Image.fromarray(small).save(stream, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _box(labels: np.ndarray, row: pd.Series) -> list[tuple[int, int]] | None:
    """First and last + 1 row and column of the particle in the label image."""
    if any(name not in row or pd.isna(row[name]) for name in ("x0", "x1", "y0", "y1")):
        return None
    x0, x1, y0, y1 = (max(0, int(row[name])) for name in ("x0", "x1", "y0", "y1"))
    if not (labels[x0:x1, y0:y1] == int(row["label"])).any():
        return None
    return [(x0, min(x1, labels.shape[0])), (y0, min(y1, labels.shape[1]))]


def _widened(low: int, high: int, box: Sequence[tuple[int, int]], side: int) -> tuple[int, int]:
    """A stretch of a square around the particle, moved inside the image."""
    wanted = max(_SMALLEST_SIDE, round(_MARGIN * max(end - start for start, end in box)))
    start = max(0, min((low + high - wanted) // 2, side - wanted))
    return start, min(side, start + wanted)


def _name(row: pd.Series) -> str:
    parts = [row["class"]]
    if pd.notna(row["mass"]):
        parts.append(f"{plain_number(row['mass'], 3)} g")
    size = row.get("feret_max_mm", row.get("length_mm", np.nan))
    if pd.notna(size):
        parts.append(f"{plain_number(size, 3)} mm")
    if pd.notna(row["score"]):
        parts.append(f"score {row['score']:.2f}")
    return " · ".join(parts)
