"""prepare_data.py preview: what the mapper feeds the network, and how a config's grids fit the data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
from detectron2.data import MetadataCatalog
from PIL import Image
from tqdm import tqdm

from ramses_d2.config import load_config
from ramses_d2.data import preview
from ramses_d2.data.catalog import register_datasets
from ramses_d2.errors import RamsesError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The subcommand that shows training images and cell statistics."""
    parser = subparsers.add_parser(
        "preview",
        help="look at what the network is fed, and at how grids and scale ranges fit it",
        description="Write a contact sheet of augmented training images (masks, classes, masses as the network gets "
        "them), a histogram of object scales per pyramid level, and cell statistics; of Mask R-CNN, which has no "
        "grids, the contact sheet alone.",
        epilog="example: python tools/prepare_data.py preview --config-file configs/ramses_demo.yaml "
        "--output preview --suggest",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    quiet, add = argparse.SUPPRESS, parser.add_argument
    add("--config-file", required=True, metavar="YAML", default=quiet, help="config of the network")
    add("--data", metavar="URI", default=None, help="data set; None = the config's DATASETS.TRAIN")
    add("--output", required=True, metavar="DIR", default=quiet, help="folder to create")
    add("--pictures", type=int, default=9, metavar="N", help="images on the contact sheet")
    add("--sample", type=int, default=100, metavar="N", help="images for the statistics, 0 = all")
    add("--suggest", action="store_true", help="propose GRID_SIZES and SCALE_RANGES for this data")
    add("--seed", type=int, default=0, help="same seed, same augmentation")
    add("--force", action="store_true", help="replace the files of an earlier preview")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", default=[], help="config overrides")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
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
