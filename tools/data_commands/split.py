"""prepare_data.py split: divide data sets into training and validation sets."""

from __future__ import annotations

import argparse
from collections import Counter

from ramses_d2.data.dataset_manager import AUTO, DatasetManager, split_folders
from ramses_d2.data.folder import MAX_LABEL


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand that writes split files."""
    parser = subparsers.add_parser(
        "split",
        help="divide data sets into training and validation images (split.json)",
        description="Write a split file: a share of the images, and of each class, for validation. Images of one "
        "batch stay on one side. Folds are the subsets fold0-train, fold0-valid, fold1-train ... of one file.",
        epilog="example: python tools/prepare_data.py split datasets/mine --output datasets/mine/split.json",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    quiet = argparse.SUPPRESS
    parser.add_argument("folders", nargs="+", metavar="FOLDER", default=quiet, help="RAMSES folders")
    parser.add_argument("--output", required=True, metavar="JSON", default=quiet, help="split file to write")
    sides = parser.add_mutually_exclusive_group()
    sides.add_argument("--valid", type=float, default=0.2, metavar="SHARE", help="share of the images to validate on")
    sides.add_argument("--folds", type=int, metavar="K", default=quiet, help="make K folds instead")
    parser.add_argument(
        "--stratify", action=argparse.BooleanOptionalAction, default=True, help="give each class its share, too"
    )
    parser.add_argument(
        "--group-by",
        default=AUTO,
        metavar="WHAT",
        help="never on both sides: images of one batch, of one value of a column of annotations.csv or field of the "
        "images in metadata.json, or with one match of regex:PATTERN in the name; none = each image on its own; "
        "auto = batch, where there are batches of several images",
    )
    parser.add_argument(
        "--max-per-class", type=int, metavar="N", default=quiet, help="most particles of a class in a training set"
    )
    parser.add_argument(
        "--max-reuse",
        type=int,
        default=1,
        metavar="N",
        help="most uses of an image for training, for rare classes",
    )
    parser.add_argument("--min-resolution", type=float, default=0.0, metavar="R", help="lowest resolution, px/mm")
    parser.add_argument("--min-instances", type=int, metavar="N", default=0, help="fewest particles of an image")
    parser.add_argument("--max-instances", type=int, default=MAX_LABEL, metavar="N", help="most particles of an image")
    parser.add_argument("--exclude", nargs="+", default=[], metavar="CLASS", help="leave images with these out")
    parser.add_argument("--with-masses", action="store_true", help="only images with a particle of known mass")
    parser.add_argument(
        "--input-shape", type=int, nargs=2, metavar=("H", "W"), default=quiet,
        help="leave images out that lose particles when cropped to this aspect ratio",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="same seed, same split")
    parser.add_argument("--force", action="store_true", help="replace an existing split file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the split file and print what is in it."""
    manager, path = split_folders(
        args.folders,
        args.output,
        valid=args.valid,
        folds=getattr(args, "folds", None),
        group_by=args.group_by,
        options={
            "stratify": args.stratify,
            "max_per_class": getattr(args, "max_per_class", None),
            "max_reuse": args.max_reuse,
            "mass": args.with_masses,
        },
        minres=args.min_resolution,
        mininst=args.min_instances,
        maxinst=args.max_instances,
        exclude=args.exclude,
        input_shape=getattr(args, "input_shape", None),
        seed=args.seed,
        force=args.force,
    )
    print_report(manager)
    if args.group_by == "auto" and not manager.group_by:
        print(
            "note: every image is a group of its own; where several show one belt, scene or sample, keep them "
            "together with --group-by (such as tag, a column, or regex:PATTERN)"
        )
    train, valid, *others = (f"ramses://{path}#{subset}" for subset in manager.subsets)
    print(f"wrote {path}: use {train}, {valid}{', ...' if others else ''}")


def print_report(manager: DatasetManager) -> None:
    """Print particles per class and subset, images per subset, what was left out and which classes are missing."""
    print(manager.report().to_string())
    group = manager.images["group"]
    for subset, names in manager.subsets.items():
        grouped = f", {group.loc[list(set(names))].nunique()} groups by {manager.group_by}" if manager.group_by else ""
        print(f"{subset}: {len(names)} images, {len(set(names))} different{grouped}")
    reasons = Counter(reason for reason in manager.images["reason"] if reason)
    used = {name for names in manager.subsets.values() for name in names}
    if spare := int(manager.images["VALID"].sum()) - len(used):
        reasons["beyond --max-per-class, or without masses"] = spare
    for reason, count in reasons.items():
        print(f"left out: {count} images ({reason})")
    for subset in manager.subsets:
        if missing := manager.missing_classes(subset):
            print(f"warning: {subset} has no particle of {', '.join(missing)}")
