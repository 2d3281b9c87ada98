"""Train, valid and test files of a COCO-style set, the two baselines, and every file that a training leaves behind."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.test_mask_rcnn import add_crowd
from tests.test_solov2 import CATEGORIES, write_coco_set
from tests.tools.command_line import ROOT, run_process

EVALUATION = (
    *("evaluation.json", "evaluation.txt", "predictions.json", "ground_truth.json", "test_stats.json"),
    *("confusion_matrix.csv", "confusion_matrix.png", "precision_recall.csv", "precision_recall.png"),
)
TRAINING = ("train_stats.tsv", "valid_stats.tsv", "curves.png", "model_final.pth", "model_best.pth", "config.yaml")


def pycocotools_ap(truth: Path, predictions: Path, task: str, max_dets: int) -> float:
    """Mean AP in percent, by nothing but pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(str(predictions)), task)
        evaluation.params.maxDets = [1, 10, max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return 100 * float(precision[precision > -1].mean())


@pytest.fixture(scope="module")
def coco_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files over one folder of images, ids with gaps, polygons, both run lengths, crowd; label.txt."""
    folder = tmp_path_factory.mktemp("coco")
    write_coco_set(folder, images=8)
    add_crowd(folder / "annotations.json")
    whole = json.loads((folder / "annotations.json").read_text())
    for name, part in (("train", slice(0, 4)), ("valid", slice(4, 6)), ("test", slice(6, 8))):
        images = whole["images"][part]
        ids = {image["id"] for image in images}
        annotations = [annotation for annotation in whole["annotations"] if annotation["image_id"] in ids]
        content = whole | {"images": images, "annotations": annotations}
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "label.txt").write_text("box\ndisc\ntriangle\n")
    return folder


@pytest.mark.parametrize("task", ["mask_rcnn", "solov2"])
def test_all_files(coco_folder: Path, tmp_path: Path, task: str) -> None:
    def uri(name: str) -> str:
        return f"('coco://{coco_folder}/{name}.json?images={coco_folder}/pictures&labels={coco_folder}/label.txt',)"

    result = run_process(
        *("train_net.py", "--config-file", str(ROOT / f"tests/{task}_tiny.yaml")),
        *("DATASETS.TRAIN", uri("train"), "DATASETS.TEST", uri("valid"), "DATASETS.FINAL_TEST", uri("test")),
        *("SOLVER.MAX_ITER", "24", "SOLVER.WARMUP_ITERS", "2", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.BASE_LR", "0.003"),
        *("TEST.EVAL_PERIOD", "12", "MODEL.RAMSES.TEST.SCORE_THRESH", "0.01", "OUTPUT_DIR", "out"),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out"
    assert not [name for name in (*TRAINING, *EVALUATION) if not (out / name).is_file()]
    assert not [name for name in EVALUATION if not (out / "test" / name).is_file()]
    assert list((out / "worst").glob("*.jpg")) and list(out.glob("events.out.tfevents.*"))
    for image in (out / "curves.png", out / "confusion_matrix.png", *(out / "worst").glob("*.jpg")):
        assert np.ptp(np.asarray(Image.open(image).convert("L"))) > 100

    train = pd.read_csv(out / "train_stats.tsv", sep="\t")
    assert {"iteration", "epoch", "total_loss", "lr"} <= set(train.columns) and train["iteration"].iloc[-1] == 24
    valid = pd.read_csv(out / "valid_stats.tsv", sep="\t")
    assert valid["iteration"].tolist() == [12, 24] and {"segm/AP", "bbox/AP"} <= set(valid.columns)
    stats = json.loads((out / "test/test_stats.json").read_text())
    assert set(CATEGORIES.values()) <= set(json.dumps(stats).replace('"', " ").split())

    for folder, truth in ((out, "valid"), (out / "test", "test")):
        evaluation = json.loads((folder / "evaluation.json").read_text())
        assert evaluation["settings"]["classes"] == ["box", "disc", "triangle"]
        predictions = json.loads((folder / "predictions.json").read_text())
        assert predictions and {found["category_id"] for found in predictions} <= set(CATEGORIES)
        for kind in ("segm", "bbox"):
            own = evaluation["results"][kind]["AP"]
            users = [coco_folder / f"{truth}.json"] if kind == "segm" else []  # their file has no boxes
            for file in (*users, folder / "ground_truth.json"):
                max_dets = evaluation["settings"]["max_dets"]
                assert pycocotools_ap(file, folder / "predictions.json", kind, max_dets) == pytest.approx(own, abs=1e-6)
    _masses_as_they_are(predictions, has_mass=task == "mask_rcnn")


def _masses_as_they_are(predictions: list[dict[str, Any]], *, has_mass: bool) -> None:
    """Mask R-CNN predicts masses by areal density, the tiny SOLOv2 none."""
    assert all(("mass" in found) == has_mass for found in predictions)
    assert not has_mass or all(found["mass"] > 0 for found in predictions)
