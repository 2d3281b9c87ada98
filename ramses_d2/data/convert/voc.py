"""Pascal VOC's instance segmentation, both ways.

``JPEGImages/``, ``SegmentationObject/`` (palette PNG: 0 = background, 255 = void, n = the n-th object),
``SegmentationClass/`` (palette PNG of classes), ``Annotations/*.xml``, ``ImageSets/Segmentation/*.txt``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ramses_d2.data.convert.output import Report, new_folder, place_image, reported
from ramses_d2.data.convert.source import BOX_COLUMNS, Source, SourceImage, index_files, label_values
from ramses_d2.data.convert.voc_classes import (
    STANDARD_CLASSES,
    VOID,
    XmlImage,
    XmlObject,
    class_lines,
    read_class_colours,
    read_class_image,
    read_object_image,
    read_xml,
    save_palette_image,
    standard_colours,
    write_xml,
)
from ramses_d2.errors import RamsesError
from ramses_d2.files import IMAGE_SUFFIXES

_OUTSIDE = "objects whose outline lies outside the box of their place in the xml"


def read_voc(folder: str | Path, image_set: str | None = None) -> Source:
    """Read a VOC folder.

    The class of an object is, in this order: the commonest colour of SegmentationClass under it, where labelmap.txt
    (CVAT) or class_names.txt (labelme) names the colours; the name of its place in Annotations/<name>.xml; the
    commonest colour, in the palette of the 20 classes of VOC.

    Args:
        folder: for example VOCdevkit/VOC2012.
        image_set: a list of ImageSets/Segmentation, for example "train"; default: all of SegmentationObject.

    Returns:
        the images; void is background.

    Raises:
        RamsesError: a file missing or not understood; an object without a class.
    """
    folder = Path(folder)
    objects = index_files(folder / "SegmentationObject", (".png",))
    images = index_files(folder / "JPEGImages", IMAGE_SUFFIXES)
    names = sorted(objects) if image_set is None else _listed(folder, image_set, {*objects, *images})
    for name in names:
        if name not in objects or name not in images:
            place = "SegmentationObject" if name not in objects else "JPEGImages"
            raise RamsesError(f"{folder / place / name}.* is missing; add it or leave the image out of the image set")
    if not names:
        raise RamsesError(f"{folder / 'SegmentationObject'}: no PNG; VOC keeps the instances of an image there")
    xmls = {name: folder / "Annotations" / f"{name}.xml" for name in names}
    annotations = {name: read_xml(path) for name, path in xmls.items() if path.is_file()}
    colours = read_class_colours(folder)
    if colours is not None:
        classes = list(colours.values())
    else:
        found = {each.name for annotation in annotations.values() for each in annotation.objects}
        is_standard = len(annotations) < len(names) or found <= set(STANDARD_CLASSES)
        classes = [*STANDARD_CLASSES, *sorted(found - set(STANDARD_CLASSES))] if is_standard else sorted(found)
    notes: Counter[str] = Counter()

    def image_files() -> Iterator[SourceImage]:
        for name in names:
            indices = read_object_image(objects[name])
            annotation = annotations.get(name, XmlImage())
            present = label_values(indices).tolist()
            class_image = folder / "SegmentationClass" / f"{name}.png"
            if colours is None and present and len(annotation.objects) >= present[-1]:
                found = [annotation.objects[index - 1].name for index in present]
                notes[_OUTSIDE] += _outside(indices, annotation, present)
            else:
                found = _classes_by_colour(indices, class_image, colours or standard_colours())
            yield _image(name, images[name], indices, present, found, annotation)

    return Source(str(folder), classes, image_files(), len(names), notes=notes)


def write_voc(
    source: Source, output: str | Path, *, images: str = "copy", force: bool = False, progress: bool = False
) -> Report:
    """Write a VOC folder with labelmap.txt; objects are numbered from 1, so that the xml's order is theirs.

    Images with an EXIF orientation are written anew, upright. Grams, labels and resolution are further elements
    of the xml. No void border is drawn: every pixel keeps its object.

    Args:
        source: what one of the readers returned.
        output: folder to create.
        images: "copy", "link" or "none".
        force: replace the folder if a conversion wrote it.
        progress: show a progress bar.

    Returns:
        what was written.

    Raises:
        RamsesError: something wrong in the source; an image with more than 254 objects; a class name that labelmap.txt
            cannot hold; ``output`` exists.
    """
    if len(source.classes) >= VOID:
        raise RamsesError(f"{source.origin}: {len(source.classes)} classes; a palette PNG holds {VOID - 1}")
    lines = class_lines(source.classes)
    report = Report(source.origin, Path(output), "voc")
    names = []
    with new_folder(output, report, force) as folder:
        for name in ("JPEGImages", "SegmentationObject", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
            (folder / name).mkdir(parents=True)
        source.notes["batches left out: the format has no place for them"] += len(source.batches)
        for image in reported(source, report, progress):
            if len(image.objects) >= VOID:
                raise RamsesError(
                    f"{image.path}: {len(image.objects)} objects; a VOC image holds {VOID - 1}, COCO any number"
                )
            file_name = place_image(image, folder / "JPEGImages", images, upright=True, notes=source.notes)
            _write_image(image, folder, Path(output).resolve().name, file_name, source.classes)
            names.append(image.name)
        (folder / "ImageSets/Segmentation/default.txt").write_text(
            "".join(f"{name}\n" for name in names), encoding="utf-8"
        )
        (folder / "labelmap.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return report


def _listed(folder: Path, image_set: str, known: Collection[str]) -> list[str]:
    """Base names; a name may have spaces, and VOC's own lists of a class have a number behind the name."""
    path = folder / "ImageSets" / "Segmentation" / f"{image_set}.txt"
    if not path.is_file():
        raise RamsesError(f"{path}: no such file; name a list of ImageSets/Segmentation, without .txt")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [line if line in known else line.split()[0] for line in lines]


def _classes_by_colour(indices: np.ndarray, path: Path, colours: dict[int, str]) -> list[str]:
    """The class of every object present, by the commonest colour that is a class."""
    codes = read_class_image(path)
    if codes.shape != indices.shape:
        raise RamsesError(f"{path}: of another size than the image of that name in SegmentationObject")
    inside = (indices > 0) & np.isin(codes, list(colours))
    pairs, counts = np.unique(indices[inside] << 24 | codes[inside], return_counts=True)
    commonest: dict[int, tuple[int, int]] = {}
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        index, code = pair >> 24, pair & 0xFFFFFF
        commonest[index] = max(commonest.get(index, (0, 0)), (count, code))
    for index in label_values(indices).tolist():
        if index not in commonest:
            raise RamsesError(
                f"{path}: object {index} has no colour of a known class; list the colours in labelmap.txt, "
                f"as lines of the form name:red,green,blue::"
            )
    return [colours[commonest[index][1]] for index in sorted(commonest)]


def _outside(indices: np.ndarray, annotation: XmlImage, present: list[int]) -> int:
    """Number of objects whose centre lies outside their box: the order of the xml may be another one."""
    outside = 0
    for index in present:
        box = annotation.objects[index - 1].box
        if box is not None and not any(math.isnan(value) for value in box):
            rows, columns = np.nonzero(indices == index)
            row, column = (rows.min() + rows.max() + 1) / 2, (columns.min() + columns.max() + 1) / 2
            outside += not (box[0] <= column <= box[2] and box[1] <= row <= box[3])
    return outside


def _image(
    name: str, path: Path, indices: np.ndarray, present: list[int], classes: list[str], annotation: XmlImage
) -> SourceImage:
    """Objects with what the xml adds; their own labels where it gives every object one."""
    listed = annotation.objects
    extra = [listed[index - 1] if index <= len(listed) else XmlObject("", None) for index in present]
    labels = [each.label for each in extra]
    if None in labels or len(set(labels)) < len(labels) or min(labels, default=1) < 1:
        labels = present
    lookup = np.zeros(VOID, dtype=np.int64)
    lookup[present] = labels
    objects = pd.DataFrame(
        {
            "label": np.array(labels, dtype=np.int64),
            "class": classes,
            "mass": np.array([each.mass for each in extra], dtype=float),
            "gt_mass": np.array([each.gt_mass for each in extra], dtype=bool),
        }
    )
    return SourceImage(name, path, lookup[indices], objects, annotation.resolution)


def _write_image(image: SourceImage, folder: Path, folder_name: str, file_name: str, classes: list[str]) -> None:
    rows = image.objects.to_dict("records")
    to_index = np.zeros(image.label_map.max(initial=0) + 1, dtype=np.uint8)
    to_class = np.zeros(len(rows) + 1, dtype=np.uint8)
    for index, row in enumerate(rows, start=1):
        to_index[row["label"]] = index
        to_class[index] = classes.index(row["class"]) + 1
    indices = to_index[image.label_map]
    save_palette_image(indices, folder / "SegmentationObject" / f"{image.name}.png")
    save_palette_image(to_class[indices], folder / "SegmentationClass" / f"{image.name}.png")
    content = XmlImage(
        [
            XmlObject(
                name=row["class"],
                box=tuple(row[name] for name in BOX_COLUMNS),
                label=row["label"],
                mass=row["mass"],
                gt_mass=row["gt_mass"],
            )
            for row in rows
        ],
        image.resolution,
    )
    with Image.open(image.path) as stored:
        depth = len(stored.getbands())
    path = folder / "Annotations" / f"{image.name}.xml"
    write_xml(path, folder_name, file_name, image.label_map.shape, depth, content)
