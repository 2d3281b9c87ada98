#!/usr/bin/env python
r"""Find every particle in images: mask, class, size and mass.

Examples:
    python tools/predict.py --config-file output/demo/config.yaml --weights output/demo/model_final.pth \
        --input belt.jpg --resolution 28.7 --output predictions
    python tools/predict.py --config-file output/demo/config.yaml --weights output/demo/model_final.pth \
        --input jpg/ "more/*.png" --recursive --resolution metadata.json --output predictions
    python tools/predict.py --config-file output/demo/config.yaml --weights output/demo/model_final.pth \
        --input "ramses://datasets/demo/split.json#valid" --output predictions
    python tools/predict.py --config-file output/demo/config.yaml --weights output/demo/model_final.pth \
        --input belt/ --resolution 28.7 --output belt_run --stream --overlap 20

The same command continues a run that was stopped. With --stream the images are
consecutive frames of a conveyor belt, and what their borders cut is counted once, whole (docs/streams.md).
"""

from __future__ import annotations

import argparse
import sys

import pandas as pd

from ramses_d2.analysis.particles import FRAGMENT_MODES
from ramses_d2.analysis.run import RunFolder, find_images, in_given_order, read_resolutions
from ramses_d2.analysis.stream.belt import AXES, DIRECTIONS
from ramses_d2.config import load_config
from ramses_d2.engine.launch import end_on_signal
from ramses_d2.engine.predictor import RamsesPredictor, predict_belt, predict_images, run_settings, versions
from ramses_d2.errors import RamsesError, exit_on_error

# Options of --stream, and their defaults
_BELT = {"overlap": 0, "belt_axis": "rows", "belt_direction": "forward", "belt_window": None, "cut_particles": "keep"}
_BELT |= {"order": None}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="config.yaml that training wrote")
    parser.add_argument("--weights", required=True, help="checkpoint, such as model_final.pth")
    sources = 'images, folders, patterns ("belt/*.png"), dataset URIs (ramses://...)'
    parser.add_argument("--input", required=True, nargs="+", help=sources)
    parser.add_argument("--recursive", action="store_true", help="also look into subfolders")
    parser.add_argument("--output", required=True, help="folder of the run, made or continued")
    own = "a file with those of each: metadata.json, or a CSV with file_name and res; default: the data set's, or"
    parser.add_argument("--resolution", help=f"px/mm of all images, or {own} INPUT.RESOLUTION")
    parser.add_argument("--score-threshold", type=float, help="default: MODEL.RAMSES.TEST.REPORT_THRESH")
    parts = "disconnected parts of a particle: drop all but the largest (default), keep them, or split them off"
    parser.add_argument("--fragments", choices=FRAGMENT_MODES, default="drop", help=parts)
    area = parser.add_mutually_exclusive_group()
    area.add_argument("--min-area", type=int, default=0, metavar="PX", help="drop smaller particles, px of the image")
    area.add_argument("--min-area-mm2", type=float, metavar="MM2", help="the same in mm2; needs the resolution")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="images predicted together; default: 1")
    parser.add_argument("--no-overlays", action="store_true", help="write no images with contours and captions")
    parser.add_argument("--force", action="store_true", help="replace a finished run, or one with other settings")
    belt = parser.add_argument_group("conveyor belts")
    belt.add_argument("--stream", action="store_true", help="the images are consecutive frames, in natural order")
    belt.add_argument("--overlap", type=int, metavar="PX", help="px that a frame repeats of the one before")
    belt.add_argument("--belt-axis", choices=AXES, help="the belt moves along rows (default) or columns")
    side = "the next frame continues below or right (forward, default), or above or left"
    belt.add_argument("--belt-direction", choices=DIRECTIONS, help=side)
    belt.add_argument("--order", metavar="FILE", help="text with the frames' names in their order; others are left out")
    belt.add_argument("--belt-window", type=int, metavar="PX", help="px along the belt seen at once; default: a frame")
    cut = "what the belt's first and last frame cut, and those beside a gap: keep, flagged (default), or drop"
    belt.add_argument("--cut-particles", choices=("keep", "drop"), help=cut)
    parser.set_defaults(**_BELT)
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    return parser.parse_args()


def main(args: argparse.Namespace) -> int:
    """Predict all images; returns the exit status."""
    _check(args)
    images = find_images(args.input, read_resolutions(args.resolution), recursive=args.recursive)
    if args.order:
        images = in_given_order(images, args.order)
    cfg = load_config(args.config_file, args.opts)
    threshold = cfg.MODEL.RAMSES.TEST.REPORT_THRESH if args.score_threshold is None else args.score_threshold
    cfg.MODEL.RAMSES.TEST.SCORE_THRESH = min(cfg.MODEL.RAMSES.TEST.SCORE_THRESH, threshold)
    cfg.MODEL.RAMSES.TEST.MASK_FORMAT = "rle"
    cfg.MODEL.WEIGHTS = args.weights
    predictor = RamsesPredictor(cfg)
    class_names = cfg.MODEL.RAMSES.CLASS_NAMES or [f"class_{i}" for i in range(cfg.MODEL.RAMSES.NUM_CLASSES)]
    options = {"score_threshold": threshold, "fragments": args.fragments}
    options |= {"min_area": args.min_area, "min_area_mm2": args.min_area_mm2}
    if args.stream:
        options["stream"] = {name: getattr(args, name) for name in _BELT if name != "order"}
        options["stream"]["frames"] = [str(image.path.resolve()) for image in images]
        options["stream"]["resolutions"] = sorted({image.resolution or 0 for image in images})
    about = {"command": sys.argv, "weights_file": args.weights, "versions": versions()}
    run = RunFolder(args.output, class_names, run_settings(cfg) | {"options": options}, about, force=args.force)
    settings = {"score_threshold": threshold, "fragments": args.fragments, "overlays": not args.no_overlays}
    settings |= {"min_area_px": args.min_area, "min_area_mm2": args.min_area_mm2}
    if args.stream:
        settings |= {"axis": args.belt_axis, "direction": args.belt_direction, "overlap": args.overlap}
        settings |= {"window": args.belt_window, "keep_cut": args.cut_particles == "keep"}
        table, failed = predict_belt(predictor, run, images, **settings)
    else:
        table, failed = predict_images(predictor, run, images, batch_size=args.batch_size, **settings)
    read = len(run.images)
    weighs = cfg.MODEL.RAMSES.MASS.ENABLED or cfg.MODEL.RAMSES.MASS.DENSITY
    print(f"{_summary(table, weighs)} in {read} image{'s' * (read != 1)}: {args.output}")
    return 1 if failed else 0


def _check(args: argparse.Namespace) -> None:
    if args.score_threshold is not None and not 0 <= args.score_threshold <= 1:
        raise RamsesError(f"--score-threshold {args.score_threshold}: give a number from 0 to 1")
    if args.batch_size < 1 or args.min_area < 0:
        raise RamsesError(f"--batch-size {args.batch_size}, --min-area {args.min_area}: from 1 on, and from 0 on")
    if args.min_area_mm2 is not None and not args.min_area_mm2 >= 0:
        raise RamsesError(f"--min-area-mm2 {args.min_area_mm2:g}: give an area of 0 or more")
    given = [name for name, default in _BELT.items() if getattr(args, name) != default]
    if given and not args.stream:
        raise RamsesError(f"--{given[0].replace('_', '-')} is for conveyor belts: add --stream")
    if args.stream and args.batch_size != 1:
        raise RamsesError("--batch-size is not for conveyor belts, whose windows follow from one another: leave it out")


def _summary(table: pd.DataFrame, weighs: bool) -> str:
    """Particles, and their grams where the network weighs; unknown masses are no grams."""
    if not len(table):
        return "no particles"
    weighed = int(table["mass"].notna().sum())
    if not weighs:
        return f"{len(table)} particles"
    if not weighed:
        return f"{len(table)} particles, mass unknown"
    rest = f" ({len(table) - weighed} not weighed)" if weighed < len(table) else ""
    return f"{len(table)} particles, {table['mass'].sum():.4g} g{rest}"


if __name__ == "__main__":
    with exit_on_error(), end_on_signal("the same command continues where it was"):
        sys.exit(main(parse_args()))
