"""prepare_data.py check: what is wrong with a data set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ramses_d2.data.checking.check import check_folders, kinds_table, refuse_to_overwrite
from ramses_d2.data.checking.repair import check_output, repair_folder
from ramses_d2.data.folder import class_names_from_ids
from ramses_d2.errors import RamsesError
from ramses_d2.files import read_json


class _ShowKinds(argparse.Action):
    """Print the kinds of findings and stop."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(kinds_table())
        parser.exit()


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand that checks data sets."""
    parser = subparsers.add_parser(
        "check",
        help="say what is wrong with data sets, with file and row, and repair a copy",
        description="Check RAMSES folders, which are never changed. Exit status 1 if there are errors, else 0.",
        epilog="example: python tools/prepare_data.py check mine --json check.json --fix mine-repaired",
    )
    add = parser.add_argument
    add("folders", nargs="+", type=Path, metavar="FOLDER", help="RAMSES folder")
    add("--split", type=Path, metavar="FILE", help="split file; default: the split.json in each folder")
    classes = 'class list, {"Ra": 1, "Rc": 2}; default: the classes.json in each folder'
    add("--classes", type=Path, metavar="FILE", help=classes)
    add("--json", type=Path, metavar="FILE", help="write all findings to this file")
    add("--fix", type=Path, metavar="OUT", help="write a repaired copy of the folder, with a log: fixes.csv")
    add("--show", type=int, default=10, metavar="N", help="findings printed per kind (10)")
    add("--workers", type=int, metavar="N", help="images decoded at once; default: one per core")
    add("--force", action="store_true", help="replace an earlier report and an earlier repaired copy")
    add("--kinds", action=_ShowKinds, nargs=0, help="list what is looked for, and what --fix repairs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Check the folders that `args` name."""
    if args.fix is not None:
        if len(args.folders) != 1:
            raise RamsesError(f"--fix {args.fix}: repairs one folder at a time, {len(args.folders)} are named")
        check_output(args.folders[0], args.fix, args.force)
    if args.json is not None:
        refuse_to_overwrite(args.json, args.force)
    class_names = None if args.classes is None else class_names_from_ids(read_json(args.classes), args.classes)
    options = {"class_names": class_names, "workers": args.workers, "progress": True}
    report = check_folders(args.folders, split=args.split, **options)
    print(report.text(max(args.show, 0)))
    if args.json is not None:
        report.write(args.json)
        print(f"wrote {args.json}")
    if args.fix is not None:
        changes = repair_folder(report.folders[0], args.fix, overwrite=args.force, progress=True)
        report = check_folders([args.fix], **options)
        print(f"\nwrote {args.fix} with {len(changes)} changes, listed in {args.fix / 'fixes.csv'}; what is left:")
        print(report.text(max(args.show, 0)))
    sys.exit(1 if report.errors else 0)
