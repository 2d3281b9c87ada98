"""Mask R-CNN from training to prediction with the tools of RAMSES, on a RAMSES folder and on COCO-style data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from ramses_d2.config import load_config
from ramses_d2.data.catalog import register_datasets
from ramses_d2.engine.predictor import RamsesPredictor
from ramses_d2.engine.setup import resolve_classes
from ramses_d2.engine.trainer import RamsesTrainer
from tests.test_solov2 import run_lengths, write_coco_set
from tests.tools.command_line import ROOT, run_process

TINY_YAML = str(ROOT / "tests/mask_rcnn_tiny.yaml")


def add_crowd(annotations: Path) -> None:
    """Every second image gets a crowd along its left edge."""
    content = json.loads(annotations.read_text())
    for image in content["images"][::2]:
        mask = np.zeros((image["height"], image["width"]), bool)
        mask[:, :12] = True
        entry = {"id": 10_000 + image["id"], "image_id": image["id"], "category_id": 17, "iscrowd": 1}
        content["annotations"].append(entry | {"segmentation": run_lengths(mask, compressed=False)})
    annotations.write_text(json.dumps(content))


def train(names: list[str], output: Path, *overrides: str) -> tuple[RamsesTrainer, dict[str, Any]]:
    """Train and evaluate; returns the results of the evaluation too."""
    sets = ["DATASETS.TRAIN", str(tuple(names)), "DATASETS.TEST", str(tuple(names)), "OUTPUT_DIR", str(output)]
    cfg = load_config(TINY_YAML, [*sets, *overrides])
    register_datasets(names)
    resolve_classes(cfg, names)
    output.mkdir()
    trainer = RamsesTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer, json.loads((output / "evaluation.json").read_text())["results"]


def test_on_a_folder(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    """It trains, evaluates and predicts; both mask formats hold the same, and weigh the same."""
    folder = tiny_folder(count=(6, 0))
    output = tmp_path / "out"
    trainer, results = train([f"ramses://{folder}"], output)
    assert {"segm", "bbox", "mass"} <= set(results)
    (output / "config.yaml").write_text(trainer.cfg.dump())
    cfg = load_config(str(output / "config.yaml"), ["MODEL.WEIGHTS", str(output / "model_final.pth")])
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3 and cfg.MODEL.RAMSES.CLASS_NAMES == ["brick", "concrete", "glass"]
    cfg.MODEL.RAMSES.TEST.MASK_THRESH = 0.4  # of a head that has hardly begun
    image = np.asarray(Image.open(folder / "images/img0.png"))[:, :, ::-1]
    found = {}
    for mask_format in ("bitmask", "rle"):
        cfg.MODEL.RAMSES.TEST.MASK_FORMAT = mask_format
        found[mask_format] = RamsesPredictor(cfg)(image, resolution=2.0)["instances"]
    bits, runs = found["bitmask"], found["rle"]
    assert len(bits) == len(runs) > 0 and bits.image_size == (64, 96)
    for mask, rle in zip(bits.pred_masks, runs.pred_masks, strict=True):
        assert np.array_equal(mask_utils.decode(rle).astype(bool), mask.numpy())
    densities = torch.tensor([0.02, 0.04, 0.06])[bits.pred_classes]
    areas = bits.pred_masks.flatten(1).sum(1)
    assert torch.allclose(bits.pred_masses, densities * areas / 4, rtol=1e-4)
    assert torch.allclose(runs.pred_masses, bits.pred_masses)
    assert RamsesPredictor(cfg)(image)["instances"].pred_masses.isnan().all()


def test_on_coco_data_from_the_command_line(tmp_path: Path) -> None:
    """Polygons, both kinds of run lengths, crowd; the class order of a label file."""
    uri = write_coco_set(tmp_path / "data", images=4)
    add_crowd(tmp_path / "data/annotations.json")
    (tmp_path / "label.txt").write_text("# in another order than in the file\nbox\ndisc\ntriangle\n")
    sets = ["DATASETS.TRAIN", f"('{uri}&labels=label.txt',)", "DATASETS.TEST", f"('{uri}&labels=label.txt',)"]
    result = run_process("train_net.py", "--config-file", TINY_YAML, *sets, "OUTPUT_DIR", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    evaluation = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert evaluation["settings"]["classes"] == ["box", "disc", "triangle"]
    assert {"segm", "bbox", "mass"} <= set(evaluation["results"])
    weights = ["--config-file", "out/config.yaml", "--weights", "out/model_final.pth"]
    arguments = [*weights, "--input", "data/pictures/000.png", "--resolution", "2", "--score-threshold", "0"]
    result = run_process("predict.py", *arguments, "--output", "found", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "found/annotations.csv").is_file() and " in 1 image: found" in result.stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_on_data_registered_by_a_script(tmp_path: Path) -> None:
    """Detectron2's own way: no masses, no resolution; its dataset dicts learn and are evaluated all the same."""
    write_coco_set(tmp_path / "data", images=2)
    data = tmp_path / "data"
    register_coco_instances("my_shapes", {}, str(data / "annotations.json"), str(data / "pictures"))
    trainer, results = train(["my_shapes"], tmp_path / "out")
    assert {"segm", "bbox"} <= set(results) and "mass" not in results
    assert trainer.cfg.MODEL.RAMSES.CLASS_NAMES == ["triangle", "disc", "box"]
