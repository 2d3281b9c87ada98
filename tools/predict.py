#!/usr/bin/env python
r"""Outline, name and weigh every particle in pictures.

Examples:
    python tools/predict.py --config-file output/demo/config.yaml --weights output/demo/model_final.pth \
        --input belt.jpg --resolution 28.7 --output predictions
    python tools/predict.py --config-file output/demo/config.yaml --weights output/demo/model_final.pth \
        --input "ramses://datasets/demo/split.json#valid" --output predictions
"""

from __future__ import annotations

import argparse
import math
import sys

from tqdm import tqdm

from ramses_d2.analysis.prediction import PredictionWriter, find_pictures
from ramses_d2.data import read_image
from ramses_d2.engine import RamsesPredictor, load_config
from ramses_d2.errors import RamsesError, exit_on_error
from ramses_d2.modeling.mass import known_resolution


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="config.yaml that training wrote")
    parser.add_argument("--weights", required=True, help="checkpoint, such as model_final.pth")
    parser.add_argument("--input", required=True, help="picture, folder of pictures, or dataset URI (ramses://...)")
    parser.add_argument(
        "--output", required=True, help="folder to make; it gets annotations.csv, labels/ and overlays/"
    )
    parser.add_argument(
        "--resolution", type=float, help="px/mm of the pictures; default: the data set's, or INPUT.RESOLUTION"
    )
    parser.add_argument("--score-threshold", type=float, help="default: MODEL.RAMSES.TEST.REPORT_THRESH")
    parser.add_argument("--force", action="store_true", help="replace an existing output folder")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    return parser.parse_args()


def main(args: argparse.Namespace) -> int:
    """Predict all pictures; returns the exit status."""
    if args.resolution is not None and not (math.isfinite(args.resolution) and args.resolution > 0):
        raise RamsesError(f"--resolution {args.resolution}: give the px/mm of the pictures, a number above 0")
    if args.score_threshold is not None and not 0 <= args.score_threshold <= 1:
        raise RamsesError(f"--score-threshold {args.score_threshold}: give a number from 0 to 1")
    pictures = find_pictures(args.input, args.resolution)
    cfg = load_config(args.config_file, args.opts)
    threshold = cfg.MODEL.RAMSES.TEST.REPORT_THRESH if args.score_threshold is None else args.score_threshold
    cfg.MODEL.RAMSES.TEST.SCORE_THRESH = min(cfg.MODEL.RAMSES.TEST.SCORE_THRESH, threshold)
    cfg.MODEL.RAMSES.TEST.MASK_FORMAT = "rle"
    cfg.MODEL.WEIGHTS = args.weights
    predictor = RamsesPredictor(cfg)
    class_names = cfg.MODEL.RAMSES.CLASS_NAMES or [f"class_{i}" for i in range(cfg.MODEL.RAMSES.NUM_CLASSES)]
    failed = 0
    with PredictionWriter(args.output, class_names, force=args.force) as writer:
        progress = tqdm(pictures, unit="picture", disable=None)
        for picture in progress:
            try:
                image = read_image(picture.path)
            except RamsesError as error:
                failed += 1
                progress.write(f"skipped: {error}", file=sys.stderr)
                continue
            resolution = known_resolution(picture.resolution, cfg.INPUT.RESOLUTION)
            instances = predictor(image[:, :, ::-1], resolution=resolution)["instances"]
            writer.add(picture, image, instances[instances.scores >= threshold], resolution or math.nan)
            progress.set_postfix(particles=writer.num_particles)
        if failed == len(pictures):
            raise RamsesError(f"{args.input}: none of the {failed} pictures could be read")
    read = len(pictures) - failed
    print(f"{writer.summary()} in {read} picture{'s' if read > 1 else ''}: {args.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    with exit_on_error():
        sys.exit(main(parse_args()))
