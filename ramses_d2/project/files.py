"""The files of a project: a commented config and a short script."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import yaml

from .plan import Plan
from .sources import ProjectData
from .survey import Survey

CONFIG, SCRIPT = "config.yaml", "train.py"
_NETWORKS = {
    "ramses": "RAMSES: outlines, classes and masses",
    "solov2": "plain SOLOv2: outlines and classes",
    "mask_rcnn": "Mask R-CNN, a baseline: outlines and classes",
}
# By whether the network is slim
_SIZES = {
    True: "A slim network for small images (that of the demo), which trains on two processor cores.",
    False: "A network for large images, for a GPU.",
}


def write_project(folder: Path, data: ProjectData, survey: Survey, plan: Plan, seed: int = 0) -> list[str]:
    """Write a project into an empty folder; returns the names of its files."""
    names = data.write(folder, seed)
    (folder / CONFIG).write_text(config_text(folder, data, survey, plan), encoding="utf-8")
    (folder / SCRIPT).write_text(script_text(folder, plan), encoding="utf-8")
    return [CONFIG, SCRIPT, *names]


def config_text(folder: Path, data: ProjectData, survey: Survey, plan: Plan) -> str:
    """The commented YAML."""
    parts = [_head(survey, plan), f"_BASE_: {_quoted(_base(folder, plan.base))}", _model(survey, plan), _input(plan)]
    parts += [
        _datasets(data),
        _solver(data, survey, plan),
        _test(plan),
        f"OUTPUT_DIR: {_quoted(str((folder / 'output').resolve()))}",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _base(folder: Path, base: Path) -> str:
    """Relative where project and configs lie in one folder, so that both can be moved together."""
    root = base.resolve().parents[1]
    target = folder.resolve()
    return os.path.relpath(base.resolve(), target) if root in target.parents else str(base.resolve())


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("\n...")


def _quoted(value: str | list[str]) -> str:
    """Text in double quotes, on one line, in which ``: ``, ``"`` and ``#`` of a path mean nothing to YAML."""
    dumped = yaml.safe_dump(value, default_style='"', default_flow_style=True, width=math.inf, allow_unicode=True)
    return dumped.strip()


def _head(survey: Survey, plan: Plan) -> str:
    known = "unknown" if math.isnan(survey.resolution) else f"{survey.resolution:.3g} px/mm"
    return (
        f"# {_NETWORKS[plan.task]}.\n"
        f"# Made for {survey.images} images with {survey.particles} particles of {len(survey.classes)} classes "
        f"(up to {survey.most_particles} in one image);\n"
        f"# size of the particles, sqrt(box height * width): {survey.scale_5:.0f} / {survey.scale_50:.0f} / "
        f"{survey.scale_95:.0f} px (5 / 50 / 95 %);\n"
        f"# resolution {known}; {survey.weighed} particles weighed.\n"
        f"# {_SIZES[plan.slim]}\n"
        f"# What is not named here is in the file under _BASE_; every key is explained in docs/configuration.md.\n"
        f"# Paths are absolute where they have to be: change them when the project moves to another computer."
    )


def _model(survey: Survey, plan: Plan) -> str:
    lines = ["MODEL:"]
    if not plan.slim:
        lines += [
            "  CONVNEXTV2:",
            "    # Far better than a random start (not for commercial use); then LR_FACTOR.BACKBONE 0.1",
            '    WEIGHTS: ""  # "timm://convnextv2_femto.fcmae_ft_in1k", or an official file',
        ]
    if plan.task == "mask_rcnn":
        lines += [
            "  ANCHOR_GENERATOR:",
            f"    SIZES: {_flow(plan.anchors)}  # px of the network input, by the sizes of the particles",
            "  RPN:",
            f"    POST_NMS_TOPK_TRAIN: {2 * plan.detections}",
            f"    POST_NMS_TOPK_TEST: {2 * plan.detections}",
        ]
    lines += [
        "  RAMSES:",
        f"    NUM_CLASSES: {len(survey.classes)}",
        f"    CLASS_NAMES: {_flow(survey.classes)}",
    ]
    if plan.task != "mask_rcnn":
        lines += [
            "    # Cells along the long side, and particle sizes (px of the network input) of each level",
            f"    GRID_SIZES: {_flow(plan.grid_sizes)}",
            f"    SCALE_RANGES: {_flow(plan.scale_ranges)}",
            f"    MASK_STRIDE: {plan.mask_stride}  # px of the network input per px of a mask",
            "    MASK_HEAD:",
            f'      UPSCALE: "{plan.upscale}"  # "output" halves the stride of the masks',
            "    LOSS:",
            f"      MAX_POS_PER_IMAGE: {max(64, 2 * survey.most_particles)}",
        ]
    if plan.task != "ramses":
        lines += [
            "    MASS:",
            "      ENABLED: False  # no mass branch",
            f"      DENSITY: {plan.weighs}  # grams by the best areal density of each class, where masses are known",
        ]
    lines += ["    TEST:"]
    if plan.task != "mask_rcnn":
        lines += [f"      PRE_NMS_TOPK: {max(250, 2 * plan.detections)}"]
    lines += ["      REPORT_THRESH: 0.3  # from this score on an instance counts; precision_recall.csv helps to choose"]
    return "\n".join(lines)


def _input(plan: Plan) -> str:
    fitted = "anchor SIZES" if plan.task == "mask_rcnn" else "GRID_SIZES"
    return (
        "INPUT:\n"
        f"  # Short and long side of the network input, multiples of 64: {plan.zoom:.3g} px per px of the files.\n"
        f"  # More px give better outlines and masses, for more time and memory; {fitted} then need a look\n"
        f"  MIN_SIZE_TRAIN: ({plan.short_side},)\n"
        f"  MAX_SIZE_TRAIN: {plan.long_side}\n"
        f"  MIN_SIZE_TEST: {plan.short_side}\n"
        f"  MAX_SIZE_TEST: {plan.long_side}\n"
        "  AUG:\n"
        "    FLIP: True  # False if your lamp stands still: shading tells thickness\n"
        "    ROTATION: 10.0\n"
        "    SCALE: (0.8, 1.25)"
    )


def _datasets(data: ProjectData) -> str:
    lines = [
        "DATASETS:",
        f"  TRAIN: {_quoted([data.train])}",
        f"  TEST: {_quoted([data.valid])}  # evaluated every TEST.EVAL_PERIOD steps",
    ]
    if data.test:
        lines.append(f"  FINAL_TEST: {_quoted([data.test])}  # once, at the end, with the best weights")
    return "\n".join(lines)


def _solver(data: ProjectData, survey: Survey, plan: Plan) -> str:
    epochs = plan.steps * plan.batch / max(data.training_images(survey.images), 1)
    return (
        "SOLVER:\n"
        f"  IMS_PER_BATCH: {plan.batch}  # what memory holds; scale BASE_LR with it\n"
        f"  BASE_LR: {plan.learning_rate:g}\n"
        f"  MAX_ITER: {plan.steps}  # about {epochs:.0f} passes over the training images; or MAX_EPOCHS\n"
        f"  WARMUP_ITERS: {plan.warmup}\n"
        f"  CHECKPOINT_PERIOD: {plan.period}\n"
        "  EARLY_STOPPING:\n"
        "    PATIENCE: 0  # such as 4: stop when 4 evaluations bring nothing better"
    )


def _test(plan: Plan) -> str:
    return (
        "TEST:\n"
        f"  EVAL_PERIOD: {plan.period}\n"
        f"  DETECTIONS_PER_IMAGE: {plan.detections}  # more than your fullest image holds"
    )


def script_text(folder: Path, plan: Plan) -> str:
    """The script for those who prefer Python; the same as tools/train_net.py and tools/predict.py."""
    grams = ', instances.pred_masses.sum().item(), "g"' if plan.task == "ramses" else ""
    return f'''"""Train with {CONFIG}, then look at one image: python {SCRIPT} [--resume] [KEY VALUE ...]

Evaluation alone, and several processes, are the business of tools/train_net.py.
"""

import sys

import cv2
from detectron2.data import DatasetCatalog
from detectron2.engine import default_argument_parser
from ramses_d2.engine import RamsesPredictor, RamsesTrainer, load_config, setup
from ramses_d2.errors import RamsesError, exit_on_error


def main():
    args = default_argument_parser().parse_args(["--config-file", {str((folder / CONFIG).resolve())!r}, *sys.argv[1:]])
    if args.eval_only or args.num_gpus > 1 or args.num_machines > 1:
        raise RamsesError("this script trains on one process: take tools/train_net.py for that")
    cfg = setup(args)
    trainer = RamsesTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()  # weights, curves and figures are in OUTPUT_DIR

    image = DatasetCatalog.get(cfg.DATASETS.TEST[0])[0]
    cfg = load_config(f"{{cfg.OUTPUT_DIR}}/config.yaml", ["MODEL.WEIGHTS", f"{{cfg.OUTPUT_DIR}}/model_final.pth"])
    found = RamsesPredictor(cfg)(cv2.imread(image["file_name"]), resolution=picture["resolution"])
    instances = found["instances"][found["instances"].scores >= cfg.MODEL.RAMSES.TEST.REPORT_THRESH]
    print(image["file_name"], len(instances), "particles"{grams})


if __name__ == "__main__":
    with exit_on_error():
        main()
'''
