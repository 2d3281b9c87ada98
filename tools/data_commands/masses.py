"""prepare_data.py masses: share the grams of weighed batches among their particles."""

from __future__ import annotations

import argparse

from ramses_d2.data.batch_masses import (
    COIN_CLASS,
    COIN_MASS,
    DEFAULT_OUTPUT,
    NOT_IN_BATCH,
    NOT_WEIGHED,
    write_batch_masses,
)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand that shares batch masses."""
    parser = subparsers.add_parser(
        "masses",
        help="share the grams of weighed batches (metadata.json) among their particles",
        description="Share the grams that metadata.json lists for every batch and class among the particles, in "
        "proportion to area * 2 * radius / res^3. Particles weighed one by one (gt_mass True) keep their mass, "
        "which is taken off their batch. annotations.csv stays as it is: a new CSV is written.",
        epilog="example: python tools/prepare_data.py masses datasets/mine --output datasets/mine/weighed.csv",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    quiet = argparse.SUPPRESS
    parser.add_argument("folder", metavar="FOLDER", default=quiet, help="RAMSES folder with a metadata.json")
    parser.add_argument(
        "--output", metavar="CSV", default=quiet, help=f"file to write (default: FOLDER/{DEFAULT_OUTPUT})"
    )
    parser.add_argument("--measure", action="store_true", help="measure area and radius anew in the label images")
    parser.add_argument("--coin-class", default=COIN_CLASS, metavar="NAME", help="class of the coins")
    parser.add_argument("--coin-mass", type=float, default=COIN_MASS, metavar="G", help="g of a coin not weighed")
    parser.add_argument("--force", action="store_true", help="replace a CSV that this command wrote before")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the CSV and print what every batch became."""
    output, report = write_batch_masses(
        args.folder,
        getattr(args, "output", None),
        measure=args.measure,
        coin_class=args.coin_class,
        coin_mass=args.coin_mass,
        force=args.force,
        progress=True,
    )
    units = {"grams_in": "in, g", "grams_weighed": "one by one, g", "grams_out": "out, g", "F": "F, g/mm3"}
    print(report.rename(columns=units).to_string(index=False, na_rep="-", float_format="{:.6g}".format))
    unknown = report[report["how"].isin((NOT_WEIGHED, NOT_IN_BATCH))]
    for row in unknown.itertuples():
        count = row.particles - row.weighed
        print(f"without mass: {count} particles of {report.at[row.Index, 'class']} in batch {row.batch} ({row.how})")
    if not report["shared"].sum():
        print(f"wrote {output}: no particle was without a mass of its own, so nothing was shared")
        return
    print(
        f"wrote {output}: {report['shared'].sum()} particles got {_shared_grams(report):.6g} g. "
        f"To use it, put it in the place of annotations.csv"
    )


def _shared_grams(report) -> float:
    rows = report[report["shared"] > 0]
    return float((rows["grams_out"] - rows["grams_weighed"]).sum())
