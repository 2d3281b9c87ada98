#!/usr/bin/env python
r"""Make a start for your own data: a commented config that fits it, and a short script.

Examples:
    python tools/new_project.py my_project --data my_folder
    python tools/new_project.py my_project --data annotations.json --images images/ --task mask_rcnn
    python tools/new_project.py my_project --data train.json --valid valid.json --test test.json --labels label.txt
    python tools/train_net.py --config-file my_project/config.yaml      # afterwards; or: python my_project/train.py

--data is a RAMSES folder (annotations.csv, labels/), a split file, a COCO file, a folder with train.json, valid.json
and maybe test.json and label.txt. What is not divided yet is divided into training and validation images. Or it is
the URI of a training set (ramses://..., coco://...), and --valid that of a validation set. Nothing in --data is
changed.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path

from ramses_d2.errors import RamsesError, exit_on_error
from ramses_d2.project import TASKS, choose_plan, find_data, survey_data, write_project

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", help="folder of the project, made")
    parser.add_argument("--data", required=True, metavar="FOLDER|FILE|URI")
    parser.add_argument("--task", choices=TASKS, help="default: ramses where particles are weighed, else solov2")
    parser.add_argument("--valid", default="", metavar="FILE|URI", help="validation set; default: a part of --data")
    parser.add_argument("--test", default="", metavar="FILE|URI", help="set for the final test")
    parser.add_argument("--images", default="", metavar="DIR", help="images of COCO files; default: beside the file")
    parser.add_argument("--labels", default="", metavar="FILE", help="label.txt: class order, one name a line")
    parser.add_argument("--valid-share", type=float, default=0.2, metavar="SHARE", help="of images (default: 0.2)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same division (default: 0)")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Look at the data, choose settings, write the project."""
    folder = Path(args.folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RamsesError(f"{folder} exists: choose another folder for the project")
    sources = {"valid": args.valid, "test": args.test, "images": args.images, "labels": args.labels}
    data = find_data(args.data, folder, **sources, share=args.valid_share, seed=args.seed)
    survey = survey_data(data.sample)
    plan = choose_plan(survey, data, CONFIGS, args.task)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        names = write_project(folder, data, survey, plan, args.seed)
    except RamsesError:
        if made:
            shutil.rmtree(folder)
        raise
    config = shlex.quote(str(folder / names[0]))
    print(
        f"{survey.images} images, {survey.particles} particles of {len(survey.classes)} classes "
        f"({', '.join(survey.classes)}), {survey.weighed} weighed\n"
        f"{plan.task}: network input {plan.short_side}x{plan.long_side} px, {plan.steps} steps of {plan.batch}\n"
        f"wrote {', '.join(names)} to {folder}. Next:\n"
        f"  python tools/prepare_data.py preview --config-file {config} --output {shlex.quote(str(folder))}/preview\n"
        f"  python tools/train_net.py --config-file {config}"
    )


if __name__ == "__main__":
    with exit_on_error():
        main(parse_args())
