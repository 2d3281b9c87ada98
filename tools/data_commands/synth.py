"""prepare_data.py synth: render a data set."""

from __future__ import annotations

import argparse

from ramses_d2.data.synthetic import SceneConfig, write_belt, write_dataset
from ramses_d2.errors import RamsesError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand that renders a synthetic data set."""
    default = SceneConfig()
    parser = subparsers.add_parser(
        "synth",
        help="render images of touching stones with known masks, classes and masses",
        description="Render a synthetic data set in the RAMSES folder format, with split.json; or, with --belt, "
        "consecutive frames of one belt, with belt.csv.",
        epilog="example: python tools/prepare_data.py synth --output datasets/demo --train 360 --valid 40",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--output", required=True, metavar="FOLDER", default=argparse.SUPPRESS, help="folder to create")
    add("--train", type=int, default=360, metavar="N", help="images to train on")
    add("--valid", type=int, default=40, metavar="N", help="images to evaluate on")
    size = (default.height, default.width)
    add("--size", type=int, nargs=2, default=size, metavar=("H", "W"), help="image size, px")
    add("--classes", nargs="+", default=default.classes, metavar="NAME", help="Ra Rb Rc Ru Rg X")
    for name, kind, limits, what in (
        ("--stones", int, default.stones, "stones an image"),
        ("--resolution", float, default.resolution, "px/mm, one per image"),
        ("--diameter", float, default.diameter_mm, "sieve sizes, mm"),
        ("--thickness", float, default.thickness, "height / half sieve size"),
    ):
        add(name, type=kind, nargs=2, default=limits, metavar=("LOW", "HIGH"), help=what)
    add("--border", action="store_true", help="let the image's edge cut stones (mass unknown)")
    add("--belt", type=int, metavar="FRAMES", default=None, help="instead: one continuous belt cut into frames")
    add("--overlap", type=int, default=0, metavar="PX", help="rows that frames of a belt share")
    add("--seed", type=int, default=1, help="same seed, same files")
    add("--workers", type=int, default=2, metavar="N", help="processes")
    add("--force", action="store_true", help="replace an existing data set")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Render the data set that ``args`` describe."""
    ranges = map(tuple, (args.stones, args.classes, args.resolution, args.diameter, args.thickness))
    config = SceneConfig(*args.size, *ranges, border=args.border)
    if args.belt is None and args.overlap:
        raise RamsesError("--overlap is of the frames of a --belt")
    if args.belt is not None:
        folder = write_belt(args.output, config, args.belt, args.overlap, args.seed, args.force)
        print(f"wrote a belt of {args.belt} frames to {folder}: use ramses://{folder}; belt.csv holds its whole stones")
        return
    counts = {"train": args.train, "valid": args.valid}
    folder = write_dataset(args.output, config, counts, args.seed, args.workers, args.force, progress=True)
    print(f"wrote {args.train} + {args.valid} images to {folder}: use ramses://{folder}/split.json#train")
