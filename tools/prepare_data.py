"""Make, check, weigh, split, convert and look at data sets.

Example:
    python tools/prepare_data.py synth --output datasets/demo
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import ramses_d2  # noqa: F401  before Detectron2, whose warnings it silences

# isort: split
import pandas as pd
from detectron2.data import MetadataCatalog
from PIL import Image
from tqdm import tqdm

from ramses_d2.config import load_config
from ramses_d2.data import preview
from ramses_d2.data.batch_masses import (
    COIN_CLASS,
    COIN_MASS,
    DEFAULT_OUTPUT,
    NOT_IN_BATCH,
    NOT_WEIGHED,
    write_batch_masses,
)
from ramses_d2.data.catalog import register_datasets
from ramses_d2.data.checking.check import check_folders, kinds_table, refuse_to_overwrite
from ramses_d2.data.checking.repair import check_output, repair_folder
from ramses_d2.data.convert import FORMATS
from ramses_d2.data.convert.coco import SEGMENTATIONS
from ramses_d2.data.convert.common import IMAGE_MODES
from ramses_d2.data.dataset_manager import AUTO, DatasetManager, split_folders
from ramses_d2.data.folder import MAX_LABEL, class_names_from_ids
from ramses_d2.data.synthetic import SceneConfig, write_belt, write_dataset
from ramses_d2.errors import RamsesError, exit_on_error
from ramses_d2.files import check_resolution, read_json

# ---- check


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults in the help where there are any, and the example in one line, to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("example:") else super()._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class _ShowKinds(argparse.Action):
    """Print the kinds of findings and stop."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(kinds_table())
        parser.exit()


def add_check(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand that checks data sets."""
    parser = subparsers.add_parser(
        "check",
        help="say what is wrong with data sets, with file and row, and repair a copy",
        description="Check RAMSES folders, which are never changed. Exit status 1 if there are errors, else 0.",
        epilog="example: python tools/prepare_data.py check mine --json check.json --fix mine-repaired",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("folders", nargs="+", type=Path, metavar="FOLDER", help="RAMSES folder")
    add("--split", type=Path, metavar="FILE", help="split file; default: the split.json in each folder")
    classes = 'class list, {"Ra": 1, "Rc": 2}; default: the classes.json in each folder'
    add("--classes", type=Path, metavar="FILE", help=classes)
    add("--json", type=Path, metavar="FILE", help="write all findings to this file")
    add("--fix", type=Path, metavar="OUT", help="write a repaired copy of the folder, with a log: fixes.csv")
    add("--show", type=int, default=10, metavar="N", help="findings printed per kind")
    add("--workers", type=int, metavar="N", help="images decoded at once; default: one per core")
    add("--force", action="store_true", help="replace an earlier report and an earlier repaired copy")
    add("--kinds", action=_ShowKinds, nargs=0, help="list what is looked for, and what --fix repairs")
    parser.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> None:
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


# ---- convert


SHOWN_FINDINGS = 5
EXAMPLE = "example:\n  python tools/prepare_data.py convert "


def add_convert(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand that converts data sets, with one subcommand per source format."""
    parser = subparsers.add_parser(
        "convert",
        help="RAMSES folder <-> COCO; SOLOv2, Pascal VOC, Open Images and label images -> RAMSES folder",
        description="Convert a data set. First say what it is, then where it is and what it should become.",
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
        parser.set_defaults(run=run_convert, source=name, options=options)


def run_convert(args: argparse.Namespace) -> None:
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


# ---- masses


def add_masses(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand that shares batch masses."""
    parser = subparsers.add_parser(
        "masses",
        help="share the grams of weighed batches (metadata.json) among their particles",
        description="Share the grams that metadata.json lists for every batch and class among the particles, in "
        "proportion to area * 2 * radius / res^3. Particles weighed one by one (gt_mass True) keep their mass, "
        "which is taken off their batch. annotations.csv stays as it is: a new CSV is written.",
        epilog="example: python tools/prepare_data.py masses datasets/mine --output datasets/mine/weighed.csv",
        formatter_class=HelpFormatter,
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
    parser.set_defaults(run=run_masses)


def run_masses(args: argparse.Namespace) -> None:
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


# ---- preview


def add_preview(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand that shows training images and cell statistics."""
    parser = subparsers.add_parser(
        "preview",
        help="look at what the network is fed, and at how grids and scale ranges fit it",
        description="Write a contact sheet of augmented training images (masks, classes, masses as the network gets "
        "them), a histogram of object scales per pyramid level, and cell statistics; of Mask R-CNN, which has no "
        "grids, the contact sheet alone.",
        epilog="example: python tools/prepare_data.py preview --config-file configs/ramses_demo.yaml "
        "--output preview --suggest",
        formatter_class=HelpFormatter,
    )
    quiet, add = argparse.SUPPRESS, parser.add_argument
    add("--config-file", required=True, metavar="YAML", default=quiet, help="config of the network")
    add("--data", metavar="URI", default=None, help="data set; default: the config's DATASETS.TRAIN")
    add("--output", required=True, metavar="DIR", default=quiet, help="folder to create")
    add("--pictures", type=int, default=9, metavar="N", help="images on the contact sheet")
    add("--sample", type=int, default=100, metavar="N", help="images for the statistics, 0 = all")
    add("--suggest", action="store_true", help="propose GRID_SIZES and SCALE_RANGES for this data")
    add("--seed", type=int, default=0, help="same seed, same augmentation")
    add("--force", action="store_true", help="replace the files of an earlier preview")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", default=[], help="config overrides")
    parser.set_defaults(run=run_preview)


def run_preview(args: argparse.Namespace) -> None:
    """Write contact_sheet.png and, where the network has grids, scales_*.png and assignment.json."""
    if args.pictures < 1 or args.sample < 0:
        raise RamsesError("--pictures must be 1 or more, --sample 0 or more")
    folder = Path(args.output)
    if folder.exists() and not args.force:
        raise RamsesError(f"{folder} exists: choose another --output, or replace its files with --force")
    cfg = load_config(args.config_file, ["MODEL.DEVICE", "cpu", *args.opts])
    has_grids = cfg.MODEL.META_ARCHITECTURE != "MaskRCNN"
    if args.suggest and not has_grids:
        raise RamsesError(f"{args.config_file}: Mask R-CNN has no grids to suggest; leave --suggest out")
    names = [args.data] if args.data else list(cfg.DATASETS.TRAIN)
    register_datasets(names)
    items = preview.mapped_items(cfg, names, args.pictures, args.seed)
    sheet = preview.contact_sheet(items, MetadataCatalog.get(names[0]).thing_classes, cfg.INPUT.FORMAT)

    assignments: dict[str, preview.Assignment] = {}
    images: list[preview.MappedImage] = []
    if has_grids:
        assignments["config"] = preview.assignment_of(cfg)
        items = preview.mapped_items(cfg, names, args.sample, args.seed)
        images = [preview.mapped_image(item) for item in tqdm(items, unit="image", disable=None)]
    if args.suggest:
        assignments["suggested"] = preview.suggest_assignment(images, assignments["config"])

    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(folder / "contact_sheet.png")
    report: dict[str, Any] = {}
    levels = list(cfg.MODEL.RAMSES.IN_FEATURES)
    for title, tried in assignments.items():
        found = preview.assignment_statistics(images, tried)
        report[title] = found.to_json() | {"grid_sizes": tried.grid_sizes, "scale_ranges": tried.scale_ranges}
        preview.scale_plot(found, tried, levels).savefig(folder / f"scales_{title}.png", dpi=110)
        print(
            f"\n{title}: {len(found.scales)} objects in {len(images)} images, {found.share_with_cell:.2%} with a cell"
        )
        print(pd.DataFrame({"level": levels}).join(found.levels).to_string(index=False))
    written = ["contact_sheet.png", *(f"scales_{title}.png" for title in assignments)]
    if has_grids:
        (folder / "assignment.json").write_text(json.dumps(report, indent=1))
        written.append("assignment.json")
    if args.suggest:
        print(f"\nMODEL:\n  RAMSES:\n    GRID_SIZES: {list(assignments['suggested'].grid_sizes)}")
        print(f"    SCALE_RANGES: {[list(pair) for pair in assignments['suggested'].scale_ranges]}")
    print(f"\nwrote {', '.join(written)} to {folder}")


# ---- split


def add_split(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand that writes split files."""
    parser = subparsers.add_parser(
        "split",
        help="divide data sets into training and validation images (split.json)",
        description="Write a split file: a share of the images, and of each class, for validation. Images of one "
        "batch stay on one side. Folds are the subsets fold0-train, fold0-valid, fold1-train ... of one file.",
        epilog="example: python tools/prepare_data.py split datasets/mine --output datasets/mine/split.json",
        formatter_class=HelpFormatter,
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
    parser.set_defaults(run=run_split)


def run_split(args: argparse.Namespace) -> None:
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


# ---- synth


def add_synth(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand that renders a synthetic data set."""
    default = SceneConfig()
    parser = subparsers.add_parser(
        "synth",
        help="render images of touching stones with known masks, classes and masses",
        description="Render a synthetic data set in the RAMSES folder format, with split.json; or, with --belt, "
        "consecutive frames of one belt, with belt.csv.",
        epilog="example: python tools/prepare_data.py synth --output datasets/demo --train 360 --valid 40",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("--output", required=True, metavar="FOLDER", default=argparse.SUPPRESS, help="folder to create")
    add("--train", type=int, default=360, metavar="N", help="images to train on")
    add("--valid", type=int, default=40, metavar="N", help="images to evaluate on")
    size = (default.height, default.width)
    add("--size", type=int, nargs=2, default=size, metavar=("H", "W"), help="image size, px")
    add("--classes", nargs="+", default=default.classes, metavar="NAME", help="Ra Rb Rc Ru Rg X")
    for name, kind, limits, what in (
        ("--stones", int, default.stones, "stones per image"),
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
    parser.set_defaults(run=run_synth)


def run_synth(args: argparse.Namespace) -> None:
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


# ----


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and ``message``."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def main(argv: list[str] | None = None) -> None:
    """Run one subcommand."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (add_check, add_convert, add_masses, add_preview, add_split, add_synth):
        add(subparsers)
    args = parser.parse_args(argv)
    with exit_on_error():
        args.run(args)


if __name__ == "__main__":
    main()
