"""prepare_data.py convert: data sets from and to other formats."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ramses_d2.data.convert.coco import read_coco, write_coco
from ramses_d2.data.convert.label_images import read_label_images
from ramses_d2.data.convert.open_images import OpenImagesFiles, read_open_images
from ramses_d2.data.convert.output import Report
from ramses_d2.data.convert.ramses import read_ramses
from ramses_d2.data.convert.solov2_layout import read_solov2, write_solov2
from ramses_d2.data.convert.source import Source
from ramses_d2.data.convert.voc import read_voc, write_voc
from ramses_d2.data.convert.writer import write_ramses
from ramses_d2.errors import RamsesError

_SHOWN_FINDINGS = 5
_WRITERS: dict[str, Callable[..., Report]] = {
    "ramses": write_ramses,
    "coco": write_coco,
    "solov2": write_solov2,
    "voc": write_voc,
}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand that converts data sets, with one subcommand per source format."""
    parser = subparsers.add_parser(
        "convert",
        help="RAMSES folder <-> COCO, SOLOv2, Pascal VOC; Open Images and label images -> RAMSES folder",
        description="Convert a data set. First say what it is, then where it is and what it shall become.",
        epilog=_example("ramses --input datasets/mine --to coco --output mine-coco")
        + "\n\nevery source has its own options and example: convert SOURCE --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sources = parser.add_subparsers(required=True, metavar="SOURCE")
    _add_ramses(sources)
    _add_coco(sources)
    _add_solov2(sources)
    _add_open_images(sources)
    _add_voc(sources)
    _add_labels(sources)


def run(args: argparse.Namespace) -> None:
    """Convert the data set that ``args`` describe and print what was done."""
    source: Source = args.read(args)
    if args.resolution is not None:
        if args.resolution <= 0:
            raise RamsesError(f"--resolution {args.resolution:g}: it is px per mm, above 0")
        source.resolution = args.resolution
    options = {"images": args.images, "force": args.force, "progress": True}
    if args.to == "coco":
        options["segmentation"] = args.segmentation
    report = _WRITERS[args.to](source, args.output, **options)
    print("\n".join(report.lines()))
    for finding in report.findings[:_SHOWN_FINDINGS]:
        print("  " + ", ".join(f"{key} {value}" for key, value in finding.items()))
    if len(report.findings) > _SHOWN_FINDINGS:
        print(f"  ... {len(report.findings) - _SHOWN_FINDINGS} more")


def _add_ramses(sources: argparse._SubParsersAction) -> None:
    _source(
        sources,
        "ramses",
        "a RAMSES folder, or one subset of a split",
        source=("FOLDER", "folder, or ramses://split.json#SUBSET"),
        targets=("coco", "solov2", "voc"),
        example=("--input ramses://datasets/mine/split.json#train --to coco --output train.json",),
        read=lambda args: read_ramses(args.input),
    )


def _add_coco(sources: argparse._SubParsersAction) -> None:
    parser = _source(
        sources,
        "coco",
        "a COCO json with polygons or RLE",
        source=("JSON", "annotation file"),
        targets=("ramses", "solov2", "voc"),
        example=("--input annotations.json --image-folder pictures", "--resolution 28.7 --output datasets/mine"),
        read=lambda args: read_coco(args.input, args.image_folder),
    )
    parser.add_argument("--image-folder", metavar="DIR", help="its images (default: beside it, or in images/)")


def _add_solov2(sources: argparse._SubParsersAction) -> None:
    _source(
        sources,
        "solov2",
        "images/, labels/ and annotations/*.json of jerome-lux/SOLOv2",
        source=("FOLDER", "holds images/, labels/, annotations/"),
        targets=("ramses", "coco", "voc"),
        example=("--input old --resolution 28.7 --output datasets/mine",),
        read=lambda args: read_solov2(args.input),
    )


def _add_open_images(sources: argparse._SubParsersAction) -> None:
    parser = _source(
        sources,
        "open-images",
        "masks of Open Images V5 to V7",
        source=("CSV", "train-annotations-object-segmentation.csv"),
        targets=("ramses", "coco", "solov2", "voc"),
        example=(
            "--input train-annotations-object-segmentation.csv",
            "--class-names class-descriptions-boxable.csv --boxes train-annotations-bbox.csv",
            "--masks masks --image-folder train --classes Orange Lemon --images-per-class 200",
            "--to coco --output fruit",
        ),
        read=_read_open_images,
    )
    parser.add_argument("--class-names", required=True, metavar="CSV", help="class-descriptions-boxable.csv")
    parser.add_argument("--masks", required=True, metavar="DIR", help="mask PNGs, unpacked")
    parser.add_argument("--image-folder", required=True, metavar="DIR", help="pictures, <ImageID>.jpg")
    parser.add_argument("--boxes", metavar="CSV", help="train-annotations-bbox.csv: tells which masks are missing")
    parser.add_argument("--classes", nargs="+", default=(), metavar="NAME", help="names or ids (default: all)")
    parser.add_argument("--images-per-class", type=int, metavar="N", help="stop at so many images (default: all)")
    parser.add_argument("--complete-only", action="store_true", help="only images where every box has its mask")


def _read_open_images(args: argparse.Namespace) -> Source:
    files = OpenImagesFiles(
        masks_csv=Path(args.input),
        class_names_csv=Path(args.class_names),
        mask_folder=Path(args.masks),
        image_folder=Path(args.image_folder),
        boxes_csv=Path(args.boxes) if args.boxes else None,
    )
    return read_open_images(
        files, args.classes, images_per_class=args.images_per_class, complete_only=args.complete_only
    )


def _add_voc(sources: argparse._SubParsersAction) -> None:
    parser = _source(
        sources,
        "voc",
        "instance PNGs of Pascal VOC (also from CVAT and labelme)",
        source=("FOLDER", "holds JPEGImages/ and SegmentationObject/"),
        targets=("ramses", "coco", "solov2"),
        example=("--input VOCdevkit/VOC2012 --image-set train --to coco --output voc-train",),
        read=lambda args: read_voc(args.input, args.image_set),
    )
    parser.add_argument("--image-set", metavar="NAME", help="a list of ImageSets/Segmentation (default: all PNGs)")


def _add_labels(sources: argparse._SubParsersAction) -> None:
    parser = _source(
        sources,
        "labels",
        "label images (Cellpose, StarDist, ImageJ ...) and a class table",
        source=("DIR", "label images, PNG or TIF, 0 = background"),
        targets=("ramses", "coco", "solov2", "voc"),
        example=(
            "--input masks --image-folder images --label-suffix _cp_masks --class gravel",
            "--resolution 12.5 --output datasets/gravel",
        ),
        read=lambda args: read_label_images(
            args.input,
            args.image_folder,
            class_table=args.class_table,
            class_name=args.class_name,
            label_suffix=args.label_suffix,
        ),
    )
    parser.add_argument("--image-folder", required=True, metavar="DIR", help="the images, of the same base names")
    parser.add_argument("--class-table", metavar="FILE", help='CSV image,label,class or JSON {"a": {"1": "brick"}}')
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="class of all that the table does not name")
    parser.add_argument("--label-suffix", default="", metavar="TEXT", help="a.jpg belongs to a<TEXT>.png")


def _example(*lines: str) -> str:
    """A command of several lines, to be pasted into a shell."""
    return "example:\n  python tools/prepare_data.py convert " + " \\\n    ".join(lines)


def _source(
    sources: argparse._SubParsersAction,
    name: str,
    summary: str,
    *,
    source: tuple[str, str],
    targets: tuple[str, ...],
    example: tuple[str, ...],
    read: Callable[[argparse.Namespace], Source],
) -> argparse.ArgumentParser:
    """One source format's parser with the options that all share."""
    parser = sources.add_parser(
        name,
        help=summary,
        description=f"Convert {summary}.",
        epilog=_example(f"{name} {example[0]}", *example[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--input", required=True, metavar=source[0], help=source[1])
    default = targets[0] if targets[0] == "ramses" else None
    parser.add_argument(
        "--to",
        choices=targets,
        default=default,
        required=default is None,
        help="format to write" + (f" (default: {default})" if default else ""),
    )
    parser.add_argument("--output", required=True, metavar="PATH", help="folder to create; for coco also NAME.json")
    parser.add_argument(
        "--resolution", type=float, metavar="PX_PER_MM", help="px per mm of images whose source does not say it"
    )
    parser.add_argument(
        "--images",
        choices=("copy", "link", "none"),
        default="copy",
        help="what to do with the images (default: copy; none where --output is a .json)",
    )
    parser.add_argument(
        "--segmentation",
        choices=("auto", "polygons", "rle"),
        default="auto",
        help="for coco: polygons where they are exact, else RLE (auto, the default); or one of them for all",
    )
    parser.add_argument("--force", action="store_true", help="replace what an earlier conversion wrote")
    parser.set_defaults(run=run, read=read)
    return parser
