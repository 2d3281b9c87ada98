"""Convert data sets: a reader turns a format into a Source, a writer turns that into a format.

FORMATS is the register: a new format is one file, one row here and one row of the round-trip test; the command line
follows from the row. Images are read and written one at a time; only the rows of the tables are held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ramses_d2.data.convert.coco import read_coco, write_coco
from ramses_d2.data.convert.common import ConversionReport, Source
from ramses_d2.data.convert.label_images import read_label_images
from ramses_d2.data.convert.open_images import read_open_images
from ramses_d2.data.convert.ramses import read_ramses, write_ramses
from ramses_d2.data.convert.solov2 import read_solov2
from ramses_d2.data.convert.voc import read_voc

__all__ = ["FORMATS", "Format", "read_coco", "read_ramses", "write_coco", "write_ramses"]


@dataclass(frozen=True)
class Format:
    """A format: its reader, its writer if there is one, and what the command line says about it."""

    summary: str
    input: tuple[str, str]  # what is read: its placeholder and help
    read: Callable[..., Source]
    example: str
    write: Callable[..., ConversionReport] | None = None
    # Flag -> settings of argparse; the values are passed to the reader under the flag's name (or `dest`)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


FORMATS = {
    "ramses": Format(
        "a RAMSES folder, or one subset of a split",
        ("FOLDER", "folder, or ramses://split.json#SUBSET"),
        read_ramses,
        "--input ramses://datasets/mine/split.json#train --to coco --output train.json",
        write_ramses,
    ),
    "coco": Format(
        "a COCO json with polygons or RLE",
        ("JSON", "annotation file"),
        read_coco,
        "--input annotations.json --image-folder images \\\n    --resolution 28.7 --output datasets/mine",
        write_coco,
        {"--image-folder": {"metavar": "DIR", "help": "its images (default: beside it, or in images/)"}},
    ),
    "solov2": Format(
        "images/, labels/ and annotations/*.json of jerome-lux/SOLOv2",
        ("FOLDER", "holds images/, labels/, annotations/"),
        read_solov2,
        "--input old --resolution 28.7 --output datasets/mine",
    ),
    "open-images": Format(
        "masks of Open Images V5 to V7",
        ("CSV", "train-annotations-object-segmentation.csv"),
        read_open_images,
        "--input train-annotations-object-segmentation.csv \\\n"
        "    --class-names class-descriptions-boxable.csv --boxes train-annotations-bbox.csv \\\n"
        "    --masks masks --image-folder train --classes Orange Lemon --images-per-class 200 \\\n"
        "    --to coco --output fruit",
        options={
            "--class-names": {"required": True, "metavar": "CSV", "help": "class-descriptions-boxable.csv"},
            "--masks": {"required": True, "metavar": "DIR", "help": "mask PNGs, unpacked"},
            "--image-folder": {"required": True, "metavar": "DIR", "help": "images, <ImageID>.jpg"},
            "--boxes": {"metavar": "CSV", "help": "train-annotations-bbox.csv: tells which masks are missing"},
            "--classes": {"nargs": "+", "default": (), "metavar": "NAME", "help": "names or ids (default: all)"},
            "--images-per-class": {"type": int, "metavar": "N", "help": "stop at so many images (default: all)"},
            "--complete-only": {"action": "store_true", "help": "only images where every box has its mask"},
        },
    ),
    "voc": Format(
        "instance PNGs of Pascal VOC (also from CVAT and labelme)",
        ("FOLDER", "holds JPEGImages/ and SegmentationObject/"),
        read_voc,
        "--input VOCdevkit/VOC2012 --image-set train --to coco --output voc-train",
        options={
            "--image-set": {"metavar": "NAME", "help": "a list of ImageSets/Segmentation (default: all PNGs)"},
        },
    ),
    "labels": Format(
        "label images (Cellpose, StarDist, ImageJ ...) and a class table",
        ("DIR", "label images, PNG or TIF, 0 = background"),
        read_label_images,
        "--input masks --image-folder images --label-suffix _cp_masks --class gravel \\\n"
        "    --resolution 12.5 --output datasets/gravel",
        options={
            "--image-folder": {"required": True, "metavar": "DIR", "help": "the images, of the same base names"},
            "--class-table": {"metavar": "FILE", "help": 'CSV image,label,class or JSON {"a": {"1": "brick"}}'},
            "--class": {"dest": "class_name", "metavar": "NAME", "help": "of all that the table does not name"},
            "--label-suffix": {"default": "", "metavar": "TEXT", "help": "a.jpg belongs to a<TEXT>.png"},
        },
    ),
}
