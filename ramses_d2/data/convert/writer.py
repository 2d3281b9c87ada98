"""Write a RAMSES folder, whatever it was converted from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ramses_d2.data.convert.output import Report, new_folder, place_image, reported, write_json, write_label_image
from ramses_d2.data.convert.source import BOX_COLUMNS, Source, SourceImage
from ramses_d2.errors import RamsesError
from ramses_d2.files import IMAGE_SUFFIXES

# Column order of the original's annotations.csv; x0 and x1 are ROWS there
_COLUMNS = (
    *("label", "baseimg", "area", "x0", "y0", "x1", "y1", "feret", "radius"),
    *("class", "res", "mass", "gt_mass", "height", "width"),
)
_OPTIONAL = ("feret", "radius")  # only from a source that has them


def write_ramses(
    source: Source, output: str | Path, *, images: str = "copy", force: bool = False, progress: bool = False
) -> Report:
    """Write a RAMSES folder: annotations.csv, labels/, images/, metadata.json, classes.json, conversion.json.

    Args:
        source: what one of the readers returned.
        output: folder to create.
        images: "copy", "link" or "none" (the images are then to be put there by hand).
        force: replace the folder if a conversion wrote it.
        progress: show a progress bar.

    Returns:
        what was written.

    Raises:
        RamsesError: something wrong in the source; objects in an image of unknown resolution; ``output`` exists.
    """
    report = Report(source.origin, Path(output), "ramses")
    tables, entries = [], []
    with new_folder(output, report, force) as folder:
        (folder / "images").mkdir()
        (folder / "labels").mkdir()
        for image in reported(source, report, progress):
            if image.path.suffix.lower() not in IMAGE_SUFFIXES:
                raise RamsesError(f"{image.path}: not an image that RAMSES reads ({' '.join(IMAGE_SUFFIXES)})")
            _check_resolution(image)
            file_name = place_image(image, folder / "images", images, upright=False, notes=source.notes)
            write_label_image(image.label_map, folder / "labels" / f"{image.name}.png")
            tables.append(_rows(image))
            entries.append(_metadata_entry(image, file_name))
        annotations = _joined(tables)
        _check_empty_images(entries, annotations)
        annotations.to_csv(folder / "annotations.csv", index=False, na_rep="NaN")
        write_json(folder / "metadata.json", {"images": entries, "batches": source.batches})
        write_json(folder / "classes.json", {name: index for index, name in enumerate(source.classes, start=1)})
    if images != "none":
        report.address = f"ramses://{output}"
    return report


def _check_resolution(image: SourceImage) -> None:
    if len(image.objects) and not 0 < image.resolution < np.inf:
        raise RamsesError(
            f"{image.path}: its resolution is not known, and a RAMSES folder needs one; give --resolution PX_PER_MM, "
            f"or use a COCO json instead, which RAMSES reads without (no grams then)"
        )


def _check_empty_images(entries: list[dict[str, Any]], annotations: pd.DataFrame) -> None:
    """An image without objects has no rows to say its resolution; the rows of the others must then agree."""
    unknown = [entry["file_name"] for entry in entries if "res" not in entry]
    if unknown and annotations["res"].nunique() != 1:
        raise RamsesError(f"{unknown[0]}: an image without objects, of unknown resolution; give --resolution")


def _rows(image: SourceImage) -> pd.DataFrame:
    """The image's rows of annotations.csv."""
    objects = image.objects
    left, top, right, bottom = (objects[name] for name in BOX_COLUMNS)
    height, width = image.label_map.shape
    return objects.drop(columns=list(BOX_COLUMNS)).assign(
        baseimg=image.name,
        x0=top,
        y0=left,
        x1=bottom,
        y1=right,
        res=image.resolution,
        height=height,
        width=width,
    )


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """All rows in the original's column order, further columns behind."""
    known = [name for name in _COLUMNS if name not in _OPTIONAL]
    filled = [table for table in tables if len(table)]
    annotations = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=known)
    order = [name for name in _COLUMNS if name in annotations]
    return annotations[order + [name for name in annotations if name not in order]]


def _metadata_entry(image: SourceImage, file_name: str) -> dict[str, Any]:
    height, width = image.label_map.shape
    resolution = {"res": image.resolution} if 0 < image.resolution < np.inf else {}
    defaults = {"camera": "", "date": "", "tag": ""}
    own = {"file_name": file_name, **resolution, "height": height, "width": width}
    return own | defaults | {key: value for key, value in image.details.items() if key not in (*own, "res")}
