"""Read Open Images V5 to V7: instance masks of their own size, one PNG an object, into label maps.

The tables have millions of rows and are read in pieces; only rows of wanted classes and present images are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from ramses_d2.data.convert.common import Source, SourceImage
from ramses_d2.data.folder import MAX_LABEL
from ramses_d2.data.images import decode, image_size
from ramses_d2.errors import RamsesError
from ramses_d2.files import IMAGE_SUFFIXES

ROWS_AT_ONCE = 200_000
WIDTH_TOLERANCE = 0.02  # and one pixel: mask and image are rounded from a larger original


def read_open_images(
    masks_csv: str | Path,
    *,
    class_names: str | Path,
    masks: str | Path,
    image_folder: str | Path,
    boxes: str | Path | None = None,
    classes: Sequence[str] = (),
    images_per_class: int | None = None,
    complete_only: bool = False,
) -> Source:
    """Read the images present in the image folder that have masks of the classes (names or ids; default: all).

    Masks are resized to their image; where two overlap, the smaller object is in front. Group boxes ("more than five
    instances") have no mask by design, and many single objects have none either: images with fewer masks than boxes are
    findings, because a network learns that the objects without mask are background. Images are taken in the order of
    their ids as long as one of their classes is in fewer than `images_per_class`.
    """
    if complete_only and boxes is None:
        raise RamsesError("complete images cannot be told without the table of boxes (train-annotations-bbox.csv)")
    if images_per_class is not None and images_per_class < 1:
        raise RamsesError(f"images per class is {images_per_class}; give at least 1")
    masks_csv, names_csv, mask_folder, image_folder = map(Path, (masks_csv, class_names, masks, image_folder))
    names = _class_names(names_csv)
    wanted = _wanted(classes, names, names_csv)
    if not image_folder.is_dir():
        raise RamsesError(f"{image_folder}: no such folder")
    images = {path.stem: path for path in sorted(image_folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES}
    notes: Counter[str] = Counter()
    table = _read_in_pieces(masks_csv, ("MaskPath", "ImageID", "LabelName"), wanted, images)
    if table.empty:
        raise RamsesError(f"{masks_csv}: no mask of the wanted classes for an image in {image_folder}")
    if not wanted:
        wanted = [mid for mid in names if mid in set(table["LabelName"])]
        unknown = sorted(set(table["LabelName"]) - set(names))
        if unknown:
            raise RamsesError(f"{names_csv}: class {unknown[0]} of {masks_csv} is missing; add it")
    table["path"] = table["MaskPath"].map(lambda name: _find_mask(mask_folder, name))
    notes["masks left out because their PNG is missing"] = int(table["path"].isna().sum())
    table = table.dropna(subset="path")
    findings: list[dict[str, Any]] = []
    if boxes is not None:
        columns = ("ImageID", "LabelName", "IsGroupOf")
        findings = _incomplete(table, _read_in_pieces(Path(boxes), columns, wanted, set(table["ImageID"])), names)
        if complete_only:
            incomplete = {finding["image"] for finding in findings}
            table = table[~table["ImageID"].isin(incomplete)]
            notes["images left out because objects have no mask"], findings = len(incomplete), []
    if images_per_class is not None:
        table = _take(table, images_per_class)
    if table.empty:
        raise RamsesError(f"{mask_folder}: no image is left; see the classes, and whether the masks are there")
    taken = set(table["ImageID"])
    findings = [finding for finding in findings if finding["image"] in taken]
    notes["images whose masks miss objects that have boxes"] = len({finding["image"] for finding in findings})

    def read_images() -> Iterator[SourceImage]:
        for image_id, rows in table.groupby("ImageID"):
            label_map, kept = _paint(rows["path"].tolist(), images[image_id], notes)
            objects = rows.iloc[kept]["LabelName"].map(names).to_frame("class").assign(label=range(1, len(kept) + 1))
            yield SourceImage(image_id, images[image_id], label_map, objects)

    return Source(
        str(masks_csv), [names[mid] for mid in wanted], read_images(), len(taken), notes=notes, findings=findings
    )


def _class_names(path: Path) -> dict[str, str]:
    """Class id (MID) -> display name; V7's table has a header, the older ones none."""
    if not path.is_file():
        raise RamsesError(f"{path}: no such file")
    table = pd.read_csv(path, header=None, dtype=str, keep_default_na=False)
    if table.shape[1] != 2:
        raise RamsesError(f"{path}: has {table.shape[1]} columns instead of 2 (class id, display name)")
    names = dict(zip(table[0], table[1], strict=True))
    names.pop("LabelName", None)
    return names


def _wanted(classes: Sequence[str], names: dict[str, str], path: Path) -> list[str]:
    """MIDs of the classes, in their order."""
    by_name = {name.lower(): mid for mid, name in names.items()}
    mids = []
    for name in classes:
        mid = name if name in names else by_name.get(name.lower())
        if mid is None:
            raise RamsesError(f"{path}: no class {name!r}; give display names (Orange) or class ids (/m/0cyhj_)")
        mids.append(mid)
    return list(dict.fromkeys(mids))


def _find_mask(folder: Path, name: str) -> Path | None:
    """A mask PNG: in the folder, or where the archives and FiftyOne put it."""
    first = name[:1]
    places = (folder / part / name for part in ("", first, first.upper(), f"train-masks-{first}"))
    return next((path for path in places if path.is_file()), None)


def _read_in_pieces(
    path: Path, columns: Sequence[str], mids: Collection[str], image_ids: Collection[str]
) -> pd.DataFrame:
    """Rows of a large table whose class is wanted (all where none is named) and whose image is present.

    Ids stay text: "1e10" is an image, not a number.
    """
    if not path.is_file():
        raise RamsesError(f"{path}: no such file")
    header = pd.read_csv(path, nrows=0)
    missing = [name for name in columns if name not in header]
    if missing:
        raise RamsesError(f"{path}: column {', '.join(missing)} is missing (found: {', '.join(header)})")
    kept = [pd.DataFrame(columns=list(columns), dtype=str)]
    with pd.read_csv(path, usecols=list(columns), dtype=str, keep_default_na=False, chunksize=ROWS_AT_ONCE) as pieces:
        for piece in pieces:
            is_wanted = piece["ImageID"].isin(image_ids)
            kept.append(piece[is_wanted & piece["LabelName"].isin(mids)] if mids else piece[is_wanted])
    return pd.concat(kept, ignore_index=True)


def _incomplete(masks: pd.DataFrame, boxes: pd.DataFrame, names: dict[str, str]) -> list[dict[str, Any]]:
    """Images and classes with more boxes than masks, or with a group box."""
    is_group = boxes["IsGroupOf"] == "1"
    tables = {"masks": masks, "boxes": boxes[~is_group], "group_boxes": boxes[is_group]}
    counts = {name: table.groupby(["ImageID", "LabelName"]).size() for name, table in tables.items()}
    counts = pd.DataFrame(counts).fillna(0).astype(int)
    counts = counts[(counts["boxes"] > counts["masks"]) | (counts["group_boxes"] > 0)]
    return [
        {"image": image_id, "class": names[mid], **row}
        for (image_id, mid), row in zip(counts.index, counts.to_dict("records"), strict=True)
    ]


def _take(masks: pd.DataFrame, images_per_class: int) -> pd.DataFrame:
    """Rows of the first images, in the order of their ids, until every class is in enough of them."""
    taken, counts = set(), Counter()
    for image_id, mids in masks.groupby("ImageID")["LabelName"]:
        present = set(mids)
        if any(counts[mid] < images_per_class for mid in present):
            taken.add(image_id)
            counts.update(present)
    return masks[masks["ImageID"].isin(taken)]


def _paint(paths: Sequence[Path], image: Path, notes: Counter[str]) -> tuple[np.ndarray, list[int]]:
    """Label map of one image and, in label order, which of the masks were taken.

    Masks are kept inside their boxes, so that a crowded image needs no stack of full-size masks.
    """
    height, width = image_size(image)
    kept, cropped = [], []
    for index, path in enumerate(paths):
        mask = _fitted(path, height, width)
        if mask is None:
            notes["masks left out because they have another shape than their image"] += 1
        elif not mask.any():
            notes["masks left out because they are empty"] += 1
        else:
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            kept.append(index)
            cropped.append((box, mask[box].copy()))
    if len(cropped) > MAX_LABEL:
        raise RamsesError(f"{image}: {len(cropped)} objects; a 16-bit label image holds at most {MAX_LABEL}")
    label_map = np.zeros((height, width), dtype=np.int32)
    areas = np.array([np.count_nonzero(mask) for _, mask in cropped], int)
    for index in np.argsort(-areas, kind="stable"):
        box, mask = cropped[index]
        label_map[box][mask] = index + 1
    overlap = int(areas.sum()) - int(np.count_nonzero(label_map))
    notes["pixels of overlapping objects given to the smaller one"] += overlap
    return label_map, kept


def _fitted(path: Path, height: int, width: int) -> np.ndarray | None:
    """A mask at its image's size, bool (H, W); None if it has another aspect ratio."""
    values = np.asarray(decode(path).convert("L"))
    h, w = values.shape
    if abs(w - h * width / height) > 1 + WIDTH_TOLERANCE * w:
        return None
    mask = (values > 127).astype(np.uint8) * 255
    if (h, w) != (height, width):
        # The share of a pixel that the mask covers, more than half of it
        shrinks = h * w > height * width
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return mask > 127
