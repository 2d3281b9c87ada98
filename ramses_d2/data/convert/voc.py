"""Read Pascal VOC's instance segmentation, also as CVAT and labelme write it.

`JPEGImages/`, `SegmentationObject/` (palette PNG: 0 = background, 255 = void, n = the n-th object),
`SegmentationClass/` (palette PNG of classes), `Annotations/*.xml`, `ImageSets/Segmentation/*.txt`.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from ramses_d2.data.convert.common import Source, SourceImage, index_files
from ramses_d2.data.images import decode
from ramses_d2.errors import RamsesError

VOID = 255  # index of the pixels that belong to no object: borders, difficult objects
STANDARD_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
# The name ends before the first colour, not at the first colon
CLASS_LINE = re.compile(r"(?P<name>.+?):(?P<colour>\s*\d+\s*,\s*\d+\s*,\s*\d+\s*)(:.*)?")


def read_voc(folder: str | Path, image_set: str | None = None) -> Source:
    """Read a VOC folder, or a list of its ImageSets/Segmentation; void is background.

    The class of an object is, in this order: the commonest colour of SegmentationClass under it, where labelmap.txt
    (CVAT) or class_names.txt (labelme) names the colours; the name of its place in Annotations/<name>.xml; the
    commonest colour, in the palette of the 20 classes of VOC. Of the xml also `label`, `mass` (g) and `gt_mass` of an
    object and `resolution` of the image are read, which are not part of VOC.
    """
    folder = Path(folder)
    objects, images = index_files(folder / "SegmentationObject", (".png",)), index_files(folder / "JPEGImages")
    names = sorted(objects) if image_set is None else _listed(folder, image_set, {*objects, *images})
    for name in names:
        if name not in objects or name not in images:
            place = "SegmentationObject" if name not in objects else "JPEGImages"
            raise RamsesError(f"{folder / place / name}.* is missing; add it or leave the image out of the image set")
    if not names:
        raise RamsesError(f"{folder / 'SegmentationObject'}: no PNG; VOC keeps the instances of an image there")
    xmls = {name: folder / "Annotations" / f"{name}.xml" for name in names}
    annotations = {name: _read_xml(path) for name, path in xmls.items() if path.is_file()}
    colours = _class_colours(folder)
    if colours is not None:
        classes = list(colours.values())
    else:
        found = {name for listed, _ in annotations.values() for name in listed["class"]}
        is_standard = len(annotations) < len(names) or found <= set(STANDARD_CLASSES)
        standard = STANDARD_CLASSES if is_standard else ()
        classes = [*standard, *sorted(found - set(standard))]
    notes: Counter[str] = Counter()

    def read_images() -> Iterator[SourceImage]:
        for name in names:
            indices = _read_objects(objects[name])
            present = np.unique(indices[indices > 0])
            listed, resolution = annotations.get(name, (pd.DataFrame(columns=XML_COLUMNS), math.nan))
            rows = listed.reindex(present)
            if colours is None and len(present) and len(listed) >= present[-1]:
                note = "objects that lie outside the box of their place in the xml"
                notes[note] += _outside(indices, rows)
            else:
                class_image = folder / "SegmentationClass" / f"{name}.png"
                rows["class"] = _classes_by_colour(indices, present, class_image, colours or STANDARD_COLOURS)
            labels = rows["label"]  # their own where the xml gives every object one
            if labels.isna().any() or labels.duplicated().any() or labels.min() < 1:
                labels = pd.Series(present)
            lookup = np.zeros(VOID, np.int64)
            lookup[present] = labels.astype(np.int64)
            rows = rows[["class", "mass"]].assign(label=lookup[present], gt_mass=rows["gt_mass"].eq(True))
            yield SourceImage(name, images[name], lookup[indices], rows.reset_index(drop=True), resolution)

    return Source(str(folder), classes, read_images(), len(names), notes=notes)


def _listed(folder: Path, image_set: str, known: Collection[str]) -> list[str]:
    """Base names; a name may have spaces, and VOC's own lists of a class have a number behind the name."""
    path = folder / "ImageSets" / "Segmentation" / f"{image_set}.txt"
    if not path.is_file():
        raise RamsesError(f"{path}: no such file; name a list of ImageSets/Segmentation, without .txt")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [line if line in known else line.split()[0] for line in lines]


def _class_colours(folder: Path) -> dict[int, str] | None:
    """Colour -> class of labelmap.txt or class_names.txt, in its order and without background; None without a file."""
    path = folder / "labelmap.txt"
    if path.is_file():
        classes = {}
        for row, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            found = CLASS_LINE.fullmatch(line.strip())
            if found is None:
                raise RamsesError(f"{path}, row {row}: {line!r} is not of the form name:red,green,blue::")
            if found["name"] != "background":
                classes[int(_codes(np.array(found["colour"].split(","), np.int64)))] = found["name"]
        return classes
    path = folder / "class_names.txt"
    if path.is_file():
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        names = [name for name in names if name != "__ignore__"]  # labelme's name for void; background is the first
        return dict(zip(PALETTE[1 : len(names)].tolist(), names[1:], strict=True))
    return None


def _codes(colours: np.ndarray) -> np.ndarray:
    """(..., 3) red, green, blue to one int64 each: 0xRRGGBB."""
    return colours.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


# VOC's 256 colours: the bits of the index, three at a time, from the colours' highest bits on
PALETTE = _codes(
    np.array([[sum((i >> 3 * b + c & 1) << 7 - b for b in range(8)) for c in range(3)] for i in range(256)])
)
STANDARD_COLOURS = dict(zip(PALETTE[1:].tolist(), STANDARD_CLASSES, strict=False))


def _read_objects(path: Path) -> np.ndarray:
    """Object indices (H, W) of a SegmentationObject image, void as background."""
    image = decode(path)
    if image.mode in ("P", "L"):
        indices = np.asarray(image).astype(np.int64)
    else:
        codes = _codes(np.asarray(image.convert("RGB")))
        order = np.argsort(PALETTE)
        indices = order[np.searchsorted(PALETTE[order], codes).clip(0, 255)]
        if (PALETTE[indices] != codes).any():
            code = codes[PALETTE[indices] != codes][0]
            raise RamsesError(f"{path}: colour #{code:06x} is not in VOC's palette; save it as palette image")
    return np.where(indices == VOID, 0, indices)


def _classes_by_colour(indices: np.ndarray, present: np.ndarray, path: Path, colours: dict[int, str]) -> list[str]:
    """The class of every object present, by the commonest colour of the class image under it that is a class."""
    image = decode(path)
    grey = image.mode == "L"  # indices of VOC's palette
    codes = PALETTE[np.asarray(image)] if grey else _codes(np.asarray(image.convert("RGB")))
    if codes.shape != indices.shape:
        raise RamsesError(f"{path}: of another size than the image of that name in SegmentationObject")
    inside = (indices > 0) & np.isin(codes, list(colours))
    counts = pd.DataFrame({"object": indices[inside], "code": codes[inside]}).value_counts().reset_index()
    commonest = counts.sort_values(["count", "code"]).drop_duplicates("object", keep="last").set_index("object")["code"]
    for index in sorted({*present} - {*commonest.index}):
        hint = "list it in labelmap.txt as name:red,green,blue::"
        raise RamsesError(f"{path}: object {index} has no colour of a known class; {hint}")
    return [colours[code] for code in commonest[present]]


def _outside(indices: np.ndarray, rows: pd.DataFrame) -> int:
    """Number of objects whose centre lies outside their box: the order of the xml may be another one."""
    places, outside = ndimage.find_objects(indices), 0
    for index, left, top, right, bottom in rows[["left", "top", "right", "bottom"]].dropna().itertuples():
        row, column = ((side.start + side.stop) / 2 for side in places[index - 1])
        outside += not (left <= column <= right and top <= row <= bottom)
    return outside


XML_COLUMNS = ("class", "left", "top", "right", "bottom", "label", "mass", "gt_mass")


def _read_xml(path: Path) -> tuple[pd.DataFrame, float]:
    """The objects of an Annotations/<name>.xml, index = their place from 1, boxes in px; the image's px/mm."""
    try:
        root = ElementTree.parse(path).getroot()
        rows = []
        for element in root.iter("object"):
            name = (element.findtext("name") or "").strip()
            if not name:
                raise ValueError("an object without a name")
            box = [float(element.findtext(f"bndbox/{tag}", "nan")) for tag in ("xmin", "ymin", "xmax", "ymax")]
            label, mass = element.findtext("label"), element.findtext("mass")
            numbers = (None if label is None else int(label), math.nan if mass is None else float(mass))
            # Boxes count pixels from 1, both ends included
            rows.append((name, box[0] - 1, box[1] - 1, box[2], box[3], *numbers, element.findtext("gt_mass") == "True"))
        resolution = float(root.findtext("resolution", "nan"))
    except (ElementTree.ParseError, ValueError) as error:
        raise RamsesError(f"{path}: not a VOC annotation ({error})") from None
    return pd.DataFrame(rows, index=range(1, len(rows) + 1), columns=XML_COLUMNS), resolution
