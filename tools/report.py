#!/usr/bin/env python
r"""Make a report of a prediction run: composition, grading, masses and how sure they are.

Examples:
    python tools/report.py predictions --output report.html
    python tools/report.py predictions --output report.html --sample "Pit 7, 8/16" --operator "A. Smith" \
        --batch metadata.json --factors factors.yaml
    python tools/report.py calibrate predictions --batch metadata.json --output factors.yaml

The first writes one HTML file that needs nothing else, with the same values as JSON and CSV beside it. The last
compares predicted grams with weighed ones and writes correction factors per class; see its own --help. A run whose
folder is called calibrate is given as ./calibrate.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from datetime import date
from pathlib import Path

from tabulate import tabulate

from ramses_d2.analysis.calibration import COIN_CLASS, COIN_DIAMETER_MM, COIN_MASS_G, calibrate, read_factors
from ramses_d2.analysis.intervals import IMAGES, PARTICLES, Resampling
from ramses_d2.analysis.report.build import ReportOptions, build_report, many
from ramses_d2.analysis.report.data import find_batches, read_run
from ramses_d2.analysis.report.page import check_page, write_files, write_report
from ramses_d2.analysis.sample import CONSTITUENTS, DEFAULT_MAP, SIEVE_SERIES, WEIGHTS, SieveSize, load_map
from ramses_d2.errors import RamsesError, exit_on_error
from ramses_d2.files import check_output

CALIBRATE = "calibrate"


def parse_args(arguments: list[str]) -> argparse.Namespace:
    """The options of a report; see :func:`parse_calibrate_args` for the other command."""
    parser = _parser("FILE.html", description=__doc__)
    add = parser.add_argument_group("header of the report").add_argument
    add("--title", default=ReportOptions.title)
    add("--sample", default="", help="name of the sample")
    add("--operator", default="", help="who made it")
    add("--date", default="", help="default: today")

    add = parser.add_argument_group("comparison and correction").add_argument
    add("--pictures", metavar="DIR", help="where the images are, if they have been moved")
    add("--factors", metavar="FILE", help="correction factors, written by the calibrate command")
    coin = (COIN_CLASS, COIN_DIAMETER_MM, COIN_MASS_G)
    what = f"coin that checks the resolution; default: {' '.join(map(str, coin))}"
    add("--coin", nargs=3, metavar=("CLASS", "MM", "G"), default=coin, help=what)

    add = parser.add_argument_group("values").add_argument
    add("--map", metavar="FILE", help="YAML file of class: constituent lines; other classes count as usual")
    add("--foreign", choices=("error", *CONSTITUENTS), default="error", help="what classes outside the map count as")
    add("--range", nargs=2, type=float, metavar="MM", help="composition of these sizes only; EN 933-11: 4 63")
    add("--sieves", default=ReportOptions.sieves, help=f"{', '.join(SIEVE_SERIES)}, or openings in mm such as 4,8,16")
    add("--size", default=SieveSize.measure, help="feret_min (default), inscribed or ellipse_minor")
    add("--size-factor", type=float, default=1.0, help="sieve size = factor * measure; default: 1")
    add("--weight", choices=tuple(WEIGHTS), default="mass", help="of the grading; default: mass")
    add("--gallery", type=int, default=8, metavar="N", help="particles in each part; default: 8; 0 = no gallery")
    what = f"what intervals are drawn over; default: {PARTICLES}"
    add("--bootstrap", choices=(PARTICLES, IMAGES, "none"), default=PARTICLES, help=what)
    return parser.parse_args(arguments)


def parse_calibrate_args(arguments: list[str]) -> argparse.Namespace:
    """The options of the calibrate command."""
    about = "Compare the grams of weighed batches with the predicted ones and write a factor per class:\n"
    about += "weighed grams / predicted grams. A batch counts if the run has all its images."
    example = "Example:\n  python tools/report.py calibrate predictions --batch metadata.json --output factors.yaml"
    parser = _parser("FILE.yaml", prog=f"report.py {CALIBRATE}", description=about, epilog=example)
    return parser.parse_args(arguments)


def _parser(output: str, **about: str) -> argparse.ArgumentParser:
    """What both commands take."""
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, **about)
    parser.add_argument("run", metavar="RUN_DIR", help="what --output of tools/predict.py named")
    parser.add_argument("--output", required=True, metavar=output)
    parser.add_argument("--force", action="store_true", help="replace an earlier file of this name")
    parser.add_argument(
        "--batch", metavar="FILE", help="metadata.json with weighed batches; default: beside the images"
    )
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals, 0 to 1; default: 0.95")
    parser.add_argument("--replicates", type=int, default=2000, help="of the bootstrap; default: 2000")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def resampling(args: argparse.Namespace, over: str = PARTICLES) -> Resampling:
    """How intervals are made."""
    return Resampling(over, args.replicates, args.confidence, args.seed)


def make_report(args: argparse.Namespace, command: str) -> None:
    """Write the report and say what was written."""
    if args.gallery < 0:
        raise RamsesError(f"--gallery {args.gallery}: give a number of particles, 0 for none")
    check_page(args.output, force=args.force)
    try:
        coin = dict(zip(("coin_diameter_mm", "coin_mass_g"), map(float, args.coin[1:]), strict=True))
    except ValueError:
        raise RamsesError(f"--coin {' '.join(map(str, args.coin))}: give class, diameter in mm and grams") from None
    same_name = ("title", "sample", "operator", "foreign", "sieves", "weight", "gallery")
    options = ReportOptions(
        **{name: getattr(args, name) for name in same_name},
        day=args.date or date.today().isoformat(),
        command=command,
        mapping=load_map(args.map) if args.map else DEFAULT_MAP,
        size_range=tuple(args.range) if args.range else None,
        size=SieveSize(args.size, args.size_factor),
        resampling=None if args.bootstrap == "none" else resampling(args, args.bootstrap),
        coin_class=args.coin[0],
        **coin,
    )
    run = read_run(args.run, args.pictures)
    factors = read_factors(args.factors) if args.factors else None
    report = build_report(run, options, find_batches(run, args.batch), factors)
    written = write_report(report, args.output, force=args.force)
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    shares = report.composition.constituents.dropna(subset="fraction")
    listed = ", ".join(f"{row.constituent} {row.fraction:.1%}" for row in shares.itertuples() if row.fraction > 0)
    mass = f"{report.mass_g:.4g} g: {listed}" if listed else "no grams"
    print(f"{many(len(report.table), 'particle')} in {many(len(run.images), 'image')}, {mass}")
    print(f"wrote {written[0]}, {written[1].name} and {len(written) - 2} CSV files ({written[2].name} ...)")


def make_factors(args: argparse.Namespace) -> None:
    """Write the factors and show them."""
    output = Path(args.output)
    check_output(output, args.force)
    run = read_run(args.run)
    factors, comparison = calibrate(run, find_batches(run, args.batch), resampling(args))
    write_files({output: factors.to_yaml()})
    columns = ["factor", "low", "high", "batches", "weighed_g", "predicted_g"]
    rows = [[name, *(getattr(entry, column) for column in columns)] for name, entry in factors.classes.items()]
    print(tabulate(rows, ["class", *columns], floatfmt=".4g"))
    for name, reason in factors.without.items():
        print(f"no factor for {name}: {reason}")
    for reason in comparison.left_out:
        print(f"warning: {reason}", file=sys.stderr)
    print(f"wrote {output}: {len(factors.classes)} factors from {len(comparison.totals)} batches")


if __name__ == "__main__":
    with exit_on_error():
        if sys.argv[1:2] == [CALIBRATE]:
            make_factors(parse_calibrate_args(sys.argv[2:]))
        else:
            make_report(parse_args(sys.argv[1:]), shlex.join(["report.py", *sys.argv[1:]]))
