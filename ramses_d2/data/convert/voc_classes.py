"""How Pascal VOC names classes: colours of SegmentationClass, a label map file, or Annotations/<name>.xml."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ramses_d2.data.convert.source import decode
from ramses_d2.errors import RamsesError

VOID = 255  # index of the pixels that belong to nobody: borders, difficult objects
STANDARD_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_BACKGROUND = "background"
# The name ends before the first colour, not at the first colon
_CLASS_LINE = re.compile(r"(?P<name>.+?):(?P<colour>\s*\d+\s*,\s*\d+\s*,\s*\d+\s*)(:.*)?")


@dataclass
class XmlObject:
    """One ``<object>``; the n-th belongs to index n of the image's SegmentationObject image.

    ``label``, ``mass`` (g) and ``gt_mass`` are not part of VOC.
    """

    name: str
    box: tuple[float, float, float, float] | None  # left, top, right, bottom; px, end exclusive
    label: int | None = None
    mass: float = math.nan
    gt_mass: bool = False


@dataclass
class XmlImage:
    """What an Annotations/<name>.xml says; ``resolution`` (px/mm) is not part of VOC."""

    objects: list[XmlObject] = field(default_factory=list)
    resolution: float = math.nan


def palette() -> np.ndarray:
    """VOC's 256 colours, uint8 (256, 3): the bits of the index, three at a time, from the colours' highest bits on."""
    index = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for shift in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * shift + channel) & 1) << (7 - shift)).astype(np.uint8)
    return colours


def read_class_colours(folder: Path) -> dict[int, str] | None:
    """Colour (see :func:`colour_codes`) -> class, from CVAT's labelmap.txt or labelme's class_names.txt.

    Returns:
        classes in the order of the file, without background; None where there is neither.

    Raises:
        RamsesError: a line that is not understood.
    """
    path = folder / "labelmap.txt"
    if path.is_file():
        return _class_colours(path.read_text(encoding="utf-8"), path)
    path = folder / "class_names.txt"
    if path.is_file():
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        names = [name for name in names if name != "__ignore__"]  # labelme's name for void
        return dict(zip(colour_codes(palette()[1 : len(names)]).tolist(), names[1:], strict=True))
    return None


def _class_colours(text: str, path: Path) -> dict[int, str]:
    """Colour -> class of a labelmap.txt."""
    classes = {}
    for row, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _CLASS_LINE.fullmatch(line.strip())
        if found is None:
            raise RamsesError(f"{path}, row {row}: {line!r} is not of the form name:red,green,blue::")
        red, green, blue = (int(part) for part in found["colour"].split(","))
        if found["name"] != _BACKGROUND:
            classes[red << 16 | green << 8 | blue] = found["name"]
    return classes


def class_lines(classes: Sequence[str]) -> list[str]:
    """The lines of a labelmap.txt in which class n has colour n of VOC's palette; background is the first.

    Raises:
        RamsesError: a name that :func:`read_class_colours` would not give back.
    """
    for name in classes:
        try:
            is_kept = list(_class_colours(f"{name}:1,2,3::", Path()).values()) == [name]
        except RamsesError:
            is_kept = False
        if not is_kept:
            raise RamsesError(f"class {name!r}: a VOC label map cannot hold this name; rename it, or convert to coco")
    colours = palette()[1 : len(classes) + 1]
    lines = ["# label:color_rgb:parts:actions", f"{_BACKGROUND}:0,0,0::"]
    return lines + [f"{name}:{','.join(map(str, colour))}::" for name, colour in zip(classes, colours, strict=True)]


def standard_colours() -> dict[int, str]:
    """Colour -> class of the 20 classes of VOC."""
    codes = colour_codes(palette()[1 : len(STANDARD_CLASSES) + 1])
    return dict(zip(codes.tolist(), STANDARD_CLASSES, strict=True))


def colour_codes(colours: np.ndarray) -> np.ndarray:
    """(..., 3) red, green, blue to one int64 each: 0xRRGGBB."""
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    return red << 16 | green << 8 | blue


def read_class_image(path: Path) -> np.ndarray:
    """Colour codes (H, W) of a SegmentationClass image; a grey one holds indices of VOC's palette."""
    image = decode(path)
    if image.mode == "L":
        return colour_codes(palette())[np.asarray(image)]
    return colour_codes(np.asarray(image.convert("RGB")))


def read_object_image(path: Path) -> np.ndarray:
    """Object indices (H, W) of a SegmentationObject image, void as background.

    Raises:
        RamsesError: unreadable, or a colour that is not VOC's.
    """
    image = decode(path)
    if image.mode in ("P", "L"):
        indices = np.asarray(image).astype(np.int64)
    else:
        codes = colour_codes(np.asarray(image.convert("RGB")))
        known = colour_codes(palette())
        order = np.argsort(known)
        place = order[np.searchsorted(known[order], codes).clip(0, 255)]
        if (known[place] != codes).any():
            code = int(codes[known[place] != codes][0])
            raise RamsesError(f"{path}: colour #{code:06x} is not in VOC's palette; save it as palette image")
        indices = place
    return np.where(indices == VOID, 0, indices)


def save_palette_image(indices: np.ndarray, path: Path) -> None:
    """Write indices (H, W) as a PNG with VOC's palette."""
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(palette().ravel().tolist())
    image.save(path)


def read_xml(path: Path) -> XmlImage:
    """Read an Annotations/<name>.xml.

    Raises:
        RamsesError: not XML, or a value that is not understood.
    """
    try:
        root = ElementTree.parse(path).getroot()
        objects = [_xml_object(element) for element in root.iter("object")]
        return XmlImage(objects, float(root.findtext("resolution", "nan")))
    except (ElementTree.ParseError, ValueError) as error:
        raise RamsesError(f"{path}: not a VOC annotation ({error})") from None


def write_xml(
    path: Path, folder_name: str, file_name: str, shape: tuple[int, int], depth: int, content: XmlImage
) -> None:
    """Write an Annotations/<name>.xml; boxes count pixels from 1, both ends included."""
    root = ElementTree.Element("annotation")
    _add(root, folder=folder_name, filename=file_name)
    _add(ElementTree.SubElement(root, "size"), width=shape[1], height=shape[0], depth=depth)
    _add(root, segmented=1)
    if not math.isnan(content.resolution):
        _add(root, resolution=content.resolution)
    for each in content.objects:
        element = ElementTree.SubElement(root, "object")
        _add(element, name=each.name, pose="Unspecified", truncated=0, difficult=0)
        if each.box is not None:
            left, top, right, bottom = each.box
            _add(ElementTree.SubElement(element, "bndbox"), xmin=left + 1, ymin=top + 1, xmax=right, ymax=bottom)
        _add(element, label=each.label)
        if not math.isnan(each.mass):
            _add(element, mass=each.mass, gt_mass=each.gt_mass)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8")


def _add(parent: ElementTree.Element, **children: object) -> None:
    for tag, value in children.items():
        ElementTree.SubElement(parent, tag).text = str(value)


def _xml_object(element: ElementTree.Element) -> XmlObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object without a name")
    box = element.find("bndbox")
    if box is not None:
        left, top, right, bottom = (float(box.findtext(tag, "nan")) for tag in ("xmin", "ymin", "xmax", "ymax"))
        box = (left - 1, top - 1, right, bottom)
    label, mass = element.findtext("label"), element.findtext("mass")
    return XmlObject(
        name=name,
        box=box,
        label=None if label is None else int(label),
        mass=math.nan if mass is None else float(mass),
        gt_mass=element.findtext("gt_mass") == "True",
    )
