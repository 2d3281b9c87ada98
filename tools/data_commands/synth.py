"""prepare_data.py synth: render a data set."""

from __future__ import annotations

import argparse

from ramses_d2.data.synthetic.belt import write_belt
from ramses_d2.data.synthetic.scene import SceneConfig
from ramses_d2.data.synthetic.writer import write_dataset
from ramses_d2.errors import RamsesError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand that renders a synthetic data set."""
    default = SceneConfig()
    parser = subparsers.add_parser(
        "synth",
        help="render images of touching stones with known outlines, classes and grams",
        description="Render a synthetic data set in the RAMSES folder format, with split.json; or, with --belt, "
        "consecutive frames of one belt, with belt.csv.",
        epilog="example: python tools/prepare_data.py synth --output datasets/demo --train 360 --valid 40",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", default=argparse.SUPPRESS, help="folder to create")
    parser.add_argument("--train", type=int, default=360, metavar="N", help="images to train on")
    parser.add_argument("--valid", type=int, default=40, metavar="N", help="images to evaluate on")
    size = (default.height, default.width)
    parser.add_argument("--size", type=int, nargs=2, default=size, metavar=("H", "W"), help="image size, px")
    limits = ("LOW", "HIGH")
    parser.add_argument("--stones", type=int, nargs=2, default=default.stones, metavar=limits, help="stones a picture")
    parser.add_argument("--classes", nargs="+", default=default.classes, metavar="NAME", help="Ra Rb Rc Ru Rg X")
    parser.add_argument(
        "--resolution",
        type=float,
        nargs=2,
        default=default.resolution,
        metavar=limits,
        help="px/mm, one per picture",
    )
    parser.add_argument(
        "--diameter", type=float, nargs=2, default=default.diameter_mm, metavar=limits, help="sieve sizes, mm"
    )
    parser.add_argument(
        "--thickness",
        type=float,
        nargs=2,
        default=default.thickness,
        metavar=limits,
        help="height / half sieve size",
    )
    parser.add_argument("--border", action="store_true", help="let the image's edge cut stones (mass unknown)")
    parser.add_argument(
        "--belt", type=int, metavar="FRAMES", default=None, help="instead: one continuous belt cut into frames"
    )
    parser.add_argument("--overlap", type=int, default=0, metavar="PX", help="rows that frames of a belt share")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same files")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes")
    parser.add_argument("--force", action="store_true", help="replace an existing data set")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Render the data set that ``args`` describe."""
    config = SceneConfig(
        height=args.size[0],
        width=args.size[1],
        stones=tuple(args.stones),
        classes=tuple(args.classes),
        resolution=tuple(args.resolution),
        diameter_mm=tuple(args.diameter),
        thickness=tuple(args.thickness),
        border=args.border,
    )
    if args.belt is None and args.overlap:
        raise RamsesError("--overlap is of the frames of a --belt")
    if args.belt is not None:
        folder = write_belt(args.output, config, args.belt, args.overlap, args.seed, args.force)
        print(f"wrote a belt of {args.belt} frames to {folder}: use ramses://{folder}; belt.csv holds its whole stones")
        return
    counts = {"train": args.train, "valid": args.valid}
    folder = write_dataset(args.output, config, counts, args.seed, args.workers, args.force, progress=True)
    print(f"wrote {args.train} + {args.valid} images to {folder}: use ramses://{folder}/split.json#train")
