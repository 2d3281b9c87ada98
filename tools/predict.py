#!/usr/bin/env python
r"""Outline, name, measure and weigh every particle in pictures.

Examples:
    python tools/predict.py --config-file output/demo/config.yaml --weights output/demo/model_final.pth \
        --input belt.jpg --resolution 28.7 --output predictions
    python tools/predict.py --config-file output/demo/config.yaml --weights output/demo/model_final.pth \
        --input pictures/ "more/*.png" --recursive --resolution metadata.json --output predictions
    python tools/predict.py --config-file output/demo/config.yaml --weights output/demo/model_final.pth \
        --input "ramses://datasets/demo/split.json#valid" --output predictions

A run that was stopped goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import math
import sys

import pandas as pd
from tqdm import tqdm

from ramses_d2.analysis.fragments import FRAGMENT_MODES
from ramses_d2.analysis.pictures import find_pictures, read_resolutions
from ramses_d2.analysis.prediction import picture_overlay, picture_result
from ramses_d2.analysis.run_folder import RunFolder
from ramses_d2.data import read_image
from ramses_d2.engine import RamsesPredictor, load_config, run_settings, versions
from ramses_d2.errors import RamsesError, exit_on_error
from ramses_d2.modeling.mass import known_resolution


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="config.yaml that training wrote")
    parser.add_argument("--weights", required=True, help="checkpoint, such as model_final.pth")
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        help='pictures, folders, patterns ("belt/*.png"), dataset URIs (ramses://...)',
    )
    parser.add_argument("--recursive", action="store_true", help="look into the folders of folders too")
    parser.add_argument("--output", required=True, help="folder of the run, made or continued")
    parser.add_argument(
        "--resolution",
        help="px/mm of all pictures, or a file with those of each: metadata.json, or a CSV with file_name and res; "
        "default: the data set's, or INPUT.RESOLUTION",
    )
    parser.add_argument("--score-threshold", type=float, help="default: MODEL.RAMSES.TEST.REPORT_THRESH")
    parser.add_argument(
        "--fragments",
        choices=FRAGMENT_MODES,
        default="drop",
        help="disconnected parts of a particle: drop all but the largest (default), keep them, or split them off",
    )
    parser.add_argument(
        "--min-area", type=int, default=0, metavar="PX", help="drop smaller particles, px of the picture"
    )
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="pictures that go through together")
    parser.add_argument("--no-overlays", action="store_true", help="write no pictures with outlines")
    parser.add_argument("--force", action="store_true", help="replace a finished run, or one with other settings")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    return parser.parse_args()


def main(args: argparse.Namespace) -> int:
    """Predict all pictures; returns the exit status."""
    if args.score_threshold is not None and not 0 <= args.score_threshold <= 1:
        raise RamsesError(f"--score-threshold {args.score_threshold}: give a number from 0 to 1")
    if args.batch_size < 1 or args.min_area < 0:
        raise RamsesError(f"--batch-size {args.batch_size}, --min-area {args.min_area}: from 1 on, and from 0 on")
    pictures = find_pictures(args.input, read_resolutions(args.resolution), recursive=args.recursive)
    cfg = load_config(args.config_file, args.opts)
    threshold = cfg.MODEL.RAMSES.TEST.REPORT_THRESH if args.score_threshold is None else args.score_threshold
    cfg.MODEL.RAMSES.TEST.SCORE_THRESH = min(cfg.MODEL.RAMSES.TEST.SCORE_THRESH, threshold)
    cfg.MODEL.RAMSES.TEST.MASK_FORMAT = "rle"
    cfg.MODEL.WEIGHTS = args.weights
    predictor = RamsesPredictor(cfg)
    class_names = cfg.MODEL.RAMSES.CLASS_NAMES or [f"class_{i}" for i in range(cfg.MODEL.RAMSES.NUM_CLASSES)]
    options = {"score_threshold": threshold, "fragments": args.fragments, "min_area": args.min_area}
    run = RunFolder(
        args.output,
        class_names,
        run_settings(cfg) | {"options": options},
        {"command": sys.argv, "weights_file": args.weights, "versions": versions()},
        force=args.force,
    )

    todo = [picture for picture in pictures if not run.is_done(picture)]
    if len(todo) < len(pictures):
        print(f"{len(pictures) - len(todo)} of {len(pictures)} pictures are done already", file=sys.stderr)
    failed, particles = [], 0
    with tqdm(total=len(todo), unit="picture", disable=None) as progress:
        for start in range(0, len(todo), args.batch_size):
            images, resolutions, batch = [], [], []
            for picture in todo[start : start + args.batch_size]:
                try:
                    images.append(read_image(picture.path))
                except RamsesError as error:
                    failed.append((str(picture.path), str(error)))
                    progress.write(f"skipped: {error}", file=sys.stderr)
                    progress.update()
                    continue
                batch.append(picture)
                resolutions.append(known_resolution(picture.resolution, cfg.INPUT.RESOLUTION))
            outputs = predictor.predict_batch([image[:, :, ::-1] for image in images], resolutions)
            for picture, image, resolution, output in zip(batch, images, resolutions, outputs, strict=True):
                instances = output["instances"].to("cpu")
                resolution = resolution or math.nan
                result = picture_result(
                    picture.path.name,
                    instances[instances.scores >= threshold],
                    class_names,
                    resolution,
                    fragments=args.fragments,
                    min_area_px=args.min_area,
                )
                overlay = None if args.no_overlays else picture_overlay(image, result, class_names)
                run.add(picture, image.shape[:2], resolution, result.labels, result.table, overlay)
                particles += len(result.table)
                progress.set_postfix(particles=particles, refresh=False)
                progress.update()
    if len(failed) == len(pictures):
        raise RamsesError(f"{' '.join(args.input)}: none of the {len(failed)} pictures could be read")
    table = run.finish(failed)
    read = len(pictures) - len(failed)
    print(f"{_summary(table, cfg.MODEL.RAMSES.MASS.ENABLED)} in {read} picture{'s' * (read != 1)}: {args.output}")
    return 1 if failed else 0


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
    with exit_on_error():
        sys.exit(main(parse_args()))
