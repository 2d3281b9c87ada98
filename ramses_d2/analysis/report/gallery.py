"""Cut-outs of particles for a report, each with its outline and a caption, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from ramses_d2.analysis.report.data import Run
from ramses_d2.analysis.sample import cut_by_edge
from ramses_d2.data.images import read_image, read_label_image
from ramses_d2.draw import draw_instances, plain_number
from ramses_d2.errors import RamsesError

_SIDE = 440  # px of a cut-out: 4 cm on paper at 300 dpi
# Side of what is cut out, over the longer side of the particle's box; small particles get more of their surroundings
_MARGIN, _SMALLEST_SIDE = 1.5, 24
_OUTLINE = (255, 214, 10)
_VEIL = 0.5  # how far the surroundings are bleached, so that the particle stands out without colour
_JPEG_QUALITY = 85


class CutOut(NamedTuple):
    """A particle: a JPEG as a data URI, its class and what is known of it, its image and label."""

    source: str
    name: str
    place: str


class GalleryPart(NamedTuple):
    """Particles that have something in common; ``missing`` says why there are none, or fewer."""

    title: str
    explanation: str
    cut_outs: list[CutOut]
    missing: str


def make_gallery(run: Run, number: int, scale_classes: Collection[str] = ()) -> list[GalleryPart]:
    """The largest, least certain and edge-cut particles, ``number`` of each; coins are among the least certain only."""
    table, order = run.table, "mass" if run.table["mass"].notna().any() else "area"
    ordered = table.sort_values(order, ascending=False, kind="stable", na_position="last")
    largest = ordered[~ordered["class"].isin(scale_classes)]
    doubtful = table[table["score"].notna()].sort_values("score", kind="stable")
    is_cut = cut_by_edge(largest)
    cut = largest.iloc[:0] if is_cut is None else largest[is_cut]
    no_cut = "no column edge in annotations.csv tells them" if is_cut is None else "no particle touches an edge"
    chosen = [
        ("Largest", f"by {'grams' if order == 'mass' else order}", largest, "there are no particles"),
        ("Least certain", "lowest scores", doubtful, "no particle has a score"),
        ("Cut by the edge of the image", f"the largest of {len(cut)}", cut, no_cut),
    ]
    rows = pd.concat([part.head(number) for _, _, part, _ in chosen])
    cut_outs, parts = _cut_all(run, rows[~rows.index.duplicated()]), []
    for title, explanation, part, missing in chosen:
        wanted = part.index[:number]
        found = [cut_outs[index] for index in wanted if index in cut_outs]
        if len(wanted):
            lost = f"{len(wanted) - len(found)} of {len(wanted)}"
            missing = f"{lost} cannot be shown: their image or label image was not found"
            missing = missing if len(found) < len(wanted) else ""
        parts.append(GalleryPart(title, explanation, found, missing))
    return parts


def _cut_all(run: Run, rows: pd.DataFrame) -> dict[int, CutOut]:
    """Cut-outs by index of the row; every image is read once."""
    cut_outs = {}
    # Images of two folders may have one name: the label image tells them apart
    for image in run.images:
        left = rows[(rows["baseimg"] == image.file_name) & ~rows.index.isin(list(cut_outs))]
        if left.empty:
            continue
        try:  # the run's overlay stands in for an image that was not found
            labels = read_label_image(run.folder / "labels" / f"{image.name}.png")
            pixels = read_image(image.path or run.folder / "overlays" / f"{image.name}.jpg")
        except (RamsesError, OSError):
            continue
        for index, row in left.iterrows():
            if (source := cut_out(pixels, labels, row)) is not None:
                length = row.get("feret_max_mm", row.get("length_mm", np.nan))
                known = [(row["mass"], "g"), (length, "mm")]
                words = [row["class"], *(f"{plain_number(value, 3)} {unit}" for value, unit in known if value == value)]
                words += [f"score {row['score']:.2f}"] if row["score"] == row["score"] else []
                cut_outs[index] = CutOut(source, " · ".join(words), f"{image.file_name} no. {row['label']:.0f}")
    return cut_outs


def cut_out(image: np.ndarray, labels: np.ndarray, row: pd.Series) -> str | None:
    """A particle in its surroundings, outlined, as the data URI of a JPEG; None if it is not in the label image.

    ``image`` (H, W, 3) uint8 shows the same view as ``labels`` (h, w), in which the box of ``row`` lies.
    """
    box, (height, width) = row.reindex(["x0", "x1", "y0", "y1"]).astype(float), labels.shape
    x0, x1, y0, y1 = box.fillna(0).clip(0, [height, height, width, width]).astype(int)
    if not (labels[x0:x1, y0:y1] == int(row["label"])).any():
        return None
    # A square around the particle, moved inside the image
    side = max(_SMALLEST_SIDE, round(_MARGIN * max(x1 - x0, y1 - y0)))
    top, left = max(0, min((x0 + x1 - side) // 2, height - side)), max(0, min((y0 + y1 - side) // 2, width - side))
    bottom, right = min(height, top + side), min(width, left + side)
    mask = (labels[top:bottom, left:right] == int(row["label"])).astype(np.int32)
    down, across = image.shape[0] / height, image.shape[1] / width
    part = image[round(top * down) : round(bottom * down), round(left * across) : round(right * across)]
    # Brought to the size of the page first, so that every outline has the same width
    scale = 2 * _SIDE / max(part.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in part.shape[1::-1])
    part = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    inside = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)[:, :, None]
    part = (part * inside + (_VEIL * 255 + (1 - _VEIL) * part) * (1 - inside)).round().astype(np.uint8)
    outlined = mask if scale > 1 else (inside[:, :, 0] > 0.5).astype(np.int32)
    drawn = draw_instances(part, outlined, colors=[_OUTLINE], alpha=0)
    small = cv2.resize(drawn, (size[0] // 2, size[1] // 2), interpolation=cv2.INTER_AREA)
    stream = io.BytesIO()
    Image.fromarray(small).save(stream, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
