"""Open Images V5 to V7: instance masks of their own size, one PNG an object, into label maps.

The tables have millions of rows and are read in pieces; only rows of wanted classes and present images are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from ramses_d2.data.convert.source import Source, SourceImage, decode, stored_size
from ramses_d2.data.folder import MAX_LABEL
from ramses_d2.errors import RamsesError
from ramses_d2.files import IMAGE_SUFFIXES

_MASK_COLUMNS = ("MaskPath", "ImageID", "LabelName")
_BOX_COLUMNS = ("ImageID", "LabelName", "IsGroupOf")
_ROWS_AT_ONCE = 200_000
_WIDTH_TOLERANCE = 0.02  # and one pixel: mask and image are rounded from a larger original


@dataclass
class OpenImagesFiles:
    """Where the parts of Open Images are.

    Attributes:
        masks_csv: ``train-annotations-object-segmentation.csv``.
        class_names_csv: ``class-descriptions-boxable.csv``: class id (MID) and display name.
        mask_folder: the mask PNGs, all in it or in folders by the first character of the image's id.
        image_folder: the images, ``<ImageID>.jpg``, also in sub-folders.
        boxes_csv: ``train-annotations-bbox.csv``; without it nobody knows whether an image's masks are complete.
    """

    masks_csv: Path
    class_names_csv: Path
    mask_folder: Path
    image_folder: Path
    boxes_csv: Path | None = None


def read_open_images(
    files: OpenImagesFiles,
    classes: Sequence[str] = (),
    *,
    images_per_class: int | None = None,
    complete_only: bool = False,
) -> Source:
    """Read a part of Open Images: the images present in the image folder that have masks of the classes.

    Masks are resized to their image; where two overlap, the smaller object is in front. Group boxes ("more than
    five instances") have no mask by design, and many single objects have none either: images with fewer masks than
    boxes are findings, because a network learns that the objects without mask are background.

    Args:
        files: where everything is.
        classes: display names or MIDs; default: all with masks.
        images_per_class: images are taken in the order of their ids as long as one of their classes is in fewer
            than this many.
        complete_only: leave out images with boxes that have no mask; needs ``boxes_csv``.

    Returns:
        the images, named by their ids; their resolution is unknown.

    Raises:
        RamsesError: a file or column missing, an unknown class, no image left.
    """
    if complete_only and files.boxes_csv is None:
        raise RamsesError("complete images cannot be told without the table of boxes (train-annotations-bbox.csv)")
    if images_per_class is not None and images_per_class < 1:
        raise RamsesError(f"images per class is {images_per_class}; give at least 1")
    names = _class_names(files.class_names_csv)
    wanted = _wanted(classes, names, files.class_names_csv)
    images = _find_images(files.image_folder)
    notes: Counter[str] = Counter()
    masks = _read_in_pieces(files.masks_csv, _MASK_COLUMNS, wanted, images)
    if masks.empty:
        raise RamsesError(f"{files.masks_csv}: no mask of the wanted classes for an image in {files.image_folder}")
    if not wanted:
        wanted = [mid for mid in names if mid in set(masks["LabelName"])]
        unknown = sorted(set(masks["LabelName"]) - set(names))
        if unknown:
            raise RamsesError(f"{files.class_names_csv}: class {unknown[0]} of {files.masks_csv} is missing; add it")
    paths = masks["MaskPath"].map(lambda name: _find_mask(files.mask_folder, name))
    notes["masks left out because their PNG is missing"] = int(paths.isna().sum())
    masks = masks.assign(path=paths).dropna(subset="path")
    findings = []
    if files.boxes_csv is not None:
        boxes = _read_in_pieces(files.boxes_csv, _BOX_COLUMNS, wanted, set(masks["ImageID"]))
        findings = _incomplete(masks, boxes, names)
        if complete_only:
            incomplete = {finding["image"] for finding in findings}
            masks = masks[~masks["ImageID"].isin(incomplete)]
            notes["images left out because objects have no mask"], findings = len(incomplete), []
    masks = _take(masks, images_per_class)
    if masks.empty:
        raise RamsesError(f"{files.mask_folder}: no image is left; see the classes, and whether the masks are there")
    taken = masks["ImageID"].unique()
    findings = [finding for finding in findings if finding["image"] in set(taken)]
    notes["images whose masks miss objects that have boxes"] = len({finding["image"] for finding in findings})

    def image_files() -> Iterator[SourceImage]:
        for image_id, rows in masks.groupby("ImageID"):
            label_map, kept = _paint(rows["path"].tolist(), images[image_id], notes)
            objects = pd.DataFrame(
                {
                    "label": np.arange(1, len(kept) + 1),
                    "class": rows["LabelName"].iloc[kept].map(names).to_numpy(dtype=object),
                }
            )
            yield SourceImage(image_id, images[image_id], label_map, objects)

    class_names = [names[mid] for mid in wanted]
    return Source(str(files.masks_csv), class_names, image_files(), len(taken), notes=notes, findings=findings)


def _class_names(path: Path) -> dict[str, str]:
    """MID -> display name; V7's table has a header, the older ones none."""
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


def _find_images(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise RamsesError(f"{folder}: no such folder")
    return {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES}


def _find_mask(folder: Path, name: str) -> Path | None:
    """A mask PNG: in the folder, or where the archives and FiftyOne put it."""
    first = name[:1]
    for part in ("", first, first.upper(), f"train-masks-{first}"):
        path = folder / part / name
        if path.is_file():
            return path
    return None


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
    kept = []
    with pd.read_csv(path, usecols=list(columns), dtype=str, keep_default_na=False, chunksize=_ROWS_AT_ONCE) as pieces:
        for piece in pieces:
            is_wanted = piece["ImageID"].isin(image_ids)
            if mids:
                is_wanted &= piece["LabelName"].isin(mids)
            kept.append(piece[is_wanted])
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=list(columns))


def _incomplete(masks: pd.DataFrame, boxes: pd.DataFrame, names: dict[str, str]) -> list[dict[str, object]]:
    """Images and classes with more boxes than masks, or with a group box."""
    counts = pd.DataFrame(
        {
            "masks": masks.groupby(["ImageID", "LabelName"]).size(),
            "boxes": boxes[boxes["IsGroupOf"] != "1"].groupby(["ImageID", "LabelName"]).size(),
            "group_boxes": boxes[boxes["IsGroupOf"] == "1"].groupby(["ImageID", "LabelName"]).size(),
        }
    )
    counts = counts.fillna(0).astype(int)
    counts = counts[(counts["boxes"] > counts["masks"]) | (counts["group_boxes"] > 0)]
    return [
        {"image": image_id, "class": names[mid], **row}
        for (image_id, mid), row in zip(counts.index, counts.to_dict("records"), strict=True)
    ]


def _take(masks: pd.DataFrame, images_per_class: int | None) -> pd.DataFrame:
    """Rows of the first images, in the order of their ids, until every class is in enough of them."""
    if images_per_class is None:
        return masks
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
    (height, width), orientation = stored_size(image)
    if orientation >= 5:
        height, width = width, height
    cropped = []
    for index, path in enumerate(paths):
        mask = _fitted(path, height, width)
        if mask is None:
            notes["masks left out because they have another shape than their picture"] += 1
        elif not mask.any():
            notes["masks left out because they are empty"] += 1
        else:
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            cropped.append((index, box, mask[box].copy()))
    if len(cropped) > MAX_LABEL:
        raise RamsesError(f"{image}: {len(cropped)} objects; a 16-bit label image holds at most {MAX_LABEL}")
    label_map = np.zeros((height, width), dtype=np.int32)
    by_area = sorted(enumerate(cropped, start=1), key=lambda entry: -np.count_nonzero(entry[1][2]))
    for label, (_, box, mask) in by_area:
        label_map[box][mask] = label
    claimed = sum(int(np.count_nonzero(mask)) for _, _, mask in cropped)
    notes["pixels of overlapping objects given to the smaller one"] += claimed - int(np.count_nonzero(label_map))
    return label_map, [index for index, _, _ in cropped]


def _fitted(path: Path, height: int, width: int) -> np.ndarray | None:
    """A mask at its image's size, bool (H, W); None if it has another aspect ratio."""
    values = np.asarray(decode(path).convert("L"))
    h, w = values.shape
    if abs(w - h * width / height) > 1 + _WIDTH_TOLERANCE * w:
        return None
    mask = (values > 127).astype(np.uint8) * 255
    if (h, w) != (height, width):
        # The share of a pixel that the mask covers, more than half of it
        shrinks = h * w > height * width
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return mask > 127
