"""prepare_data.py convert: data sets from and to other formats."""

from __future__ import annotations

import argparse

from ramses_d2.data.convert import FORMATS
from ramses_d2.data.convert.coco import SEGMENTATIONS
from ramses_d2.data.convert.common import IMAGE_MODES
from ramses_d2.files import check_resolution

SHOWN_FINDINGS = 5
EXAMPLE = "example:\n  python tools/prepare_data.py convert "


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand that converts data sets, with one subcommand per source format."""
    parser = subparsers.add_parser(
        "convert",
        help="RAMSES folder <-> COCO; SOLOv2, Pascal VOC, Open Images and label images -> RAMSES folder",
        description="Convert a data set. First say what it is, then where it is and what it shall become.",
        epilog=f"{EXAMPLE}ramses --input datasets/mine --to coco --output mine-coco"
        "\n\nevery source has its own options and example: convert SOURCE --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sources = parser.add_subparsers(required=True, metavar="SOURCE")
    for name, source in FORMATS.items():
        parser = sources.add_parser(
            name,
            help=source.summary,
            description=f"Convert {source.summary}.",
            epilog=f"{EXAMPLE}{name} {source.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add = parser.add_argument
        add("--input", required=True, metavar=source.input[0], help=source.input[1])
        targets = [target for target in FORMATS if FORMATS[target].write and target != name]
        default = targets[0] if targets[0] == "ramses" else None
        help_ = "format to write" + (f" (default: {default})" if default else "")
        add("--to", choices=targets, default=default, required=default is None, help=help_)
        add("--output", required=True, metavar="PATH", help="folder to create; for coco also NAME.json")
        add("--resolution", type=float, metavar="PX_PER_MM", help="px per mm of images whose source does not say it")
        help_ = "what to do with the images (default: copy; none where --output is a .json)"
        add("--images", choices=IMAGE_MODES, default="copy", help=help_)
        help_ = "for coco: polygons where they are exact, else RLE (auto, the default); or one of them for all"
        add("--segmentation", choices=SEGMENTATIONS, default="auto", help=help_)
        add("--force", action="store_true", help="replace what an earlier conversion wrote")
        options = [add(flag, **settings).dest for flag, settings in source.options.items()]
        parser.set_defaults(run=run, source=name, options=options)


def run(args: argparse.Namespace) -> None:
    """Convert the data set that `args` describe and print what was done."""
    source = FORMATS[args.source].read(args.input, **{name: getattr(args, name) for name in args.options})
    if args.resolution is not None:
        source.resolution = check_resolution(args.resolution, "--resolution")
    options = {"segmentation": args.segmentation} if args.to == "coco" else {}
    report = FORMATS[args.to].write(source, args.output, images=args.images, force=args.force, progress=True, **options)
    print("\n".join(report.lines()))
    for finding in report.findings[:SHOWN_FINDINGS]:
        print("  " + ", ".join(f"{key} {value}" for key, value in finding.items()))
    if len(report.findings) > SHOWN_FINDINGS:
        print(f"  ... {len(report.findings) - SHOWN_FINDINGS} more")
