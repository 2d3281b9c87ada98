"""Make data sets in the RAMSES folder format.

Example:
    python tools/prepare_data.py synth --output datasets/demo
"""

from __future__ import annotations

import argparse
from typing import NoReturn

from ramses_d2.data.synthetic import SceneConfig, write_dataset
from ramses_d2.errors import exit_on_error


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and ``message``."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def add_synth(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand that renders a synthetic data set."""
    default = SceneConfig()
    parser = subparsers.add_parser(
        "synth",
        help="render pictures of touching stones with known outlines, classes and grams",
        description="Render a synthetic data set in the RAMSES folder format, with split.json.",
        epilog="example: python tools/prepare_data.py synth --output datasets/demo --train 360 --valid 40",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", default=argparse.SUPPRESS, help="folder to create")
    parser.add_argument("--train", type=int, default=360, metavar="N", help="pictures to train on")
    parser.add_argument("--valid", type=int, default=40, metavar="N", help="pictures to evaluate on")
    size = (default.height, default.width)
    parser.add_argument("--size", type=int, nargs=2, default=size, metavar=("H", "W"), help="picture size, px")
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
    parser.add_argument("--border", action="store_true", help="let the picture's edge cut stones (mass unknown)")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same files")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes")
    parser.add_argument("--force", action="store_true", help="replace an existing data set")
    parser.set_defaults(run=run_synth)


def run_synth(args: argparse.Namespace) -> None:
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
    counts = {"train": args.train, "valid": args.valid}
    folder = write_dataset(args.output, config, counts, args.seed, args.workers, args.force, progress=True)
    print(f"wrote {args.train} + {args.valid} pictures to {folder}: use ramses://{folder}/split.json#train")


def main(argv: list[str] | None = None) -> None:
    """Run one subcommand."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    add_synth(subparsers)
    args = parser.parse_args(argv)
    with exit_on_error():
        args.run(args)


if __name__ == "__main__":
    main()
