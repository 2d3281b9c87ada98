"""Plain SOLOv2 on a COCO-style data set, from training to prediction, with the same tools as RAMSES."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ramses_d2.config import load_config
from ramses_d2.data.coco import load_coco
from ramses_d2.data.images import read_label_map
from ramses_d2.data.mapper import RamsesDatasetMapper
from ramses_d2.engine.predictor import RamsesPredictor
from tests.test_config import NO_DOWNLOAD
from tests.tools.command_line import ROOT, run_process

TINY_YAML = str(ROOT / "tests/solov2_tiny.yaml")
YAMLS = sorted((ROOT / "configs/SOLOv2").glob("solov2_*.yaml"))
SIZES = ((96, 128), (128, 96), (112, 112), (80, 120))
# COCO's category ids have gaps, and their order is not that of the names
CATEGORIES = {3: "triangle", 17: "disc", 90: "box"}
COLORS = {3: (210, 90, 60), 17: (70, 170, 90), 90: (80, 110, 220)}

# Kind, position and radius (px) of the shapes of an image
LAYOUT = ((0, 0.28, 0.3, 22), (1, 0.74, 0.28, 17), (2, 0.7, 0.74, 19), (1, 0.2, 0.18, 9), (0, 0.82, 0.84, 9))


def polygon_of(category: int, center: tuple[float, float], radius: float, angle: float) -> list[float]:
    """Polygon of a shape, [x, y, x, y, ...] in px."""
    corners = {3: 3, 17: 24, 90: 4}[category]
    turns = angle + np.arange(corners) * 2 * np.pi / corners
    return (np.array(center) + radius * np.stack((np.cos(turns), np.sin(turns)), axis=1)).ravel().round(2).tolist()


def as_mask(polygon: list[float], size: tuple[int, int]) -> np.ndarray:
    return mask_utils.decode(mask_utils.frPyObjects([polygon], *size))[:, :, 0].astype(bool)


def run_lengths(mask: np.ndarray, *, compressed: bool) -> dict[str, Any]:
    """Both forms of RLE that COCO files hold."""
    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    if compressed:
        return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    column = np.r_[False, mask.T.ravel(), ~mask.T.ravel()[-1]]
    edges = np.flatnonzero(column[1:] != column[:-1])
    return {"size": rle["size"], "counts": np.diff(np.r_[0, edges]).tolist()}


def shapes(rng: np.random.Generator, size: tuple[int, int], first: int) -> list[tuple[int, list[float]]]:
    """Three large shapes and two small ones that lie on them, each of them (category, polygon)."""
    height, width = size
    placed: list[tuple[int, list[float]]] = []
    for kind, x, y, radius in LAYOUT:
        category = list(CATEGORIES)[(first + kind) % 3]
        center = (width * x + rng.uniform(-3, 3), height * y + rng.uniform(-3, 3))
        placed.append((category, polygon_of(category, center, radius * rng.uniform(0.9, 1.1), rng.uniform(0, 6))))
    return placed


def write_coco_set(folder: Path, images: int = 12) -> str:
    """Write images and annotations.json with masses; returns the URI.

    Polygons are whole, also where something lies on top; the file lists small shapes before large ones.
    """
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True)
    entries, annotations = [], []
    for number in range(images):
        size = SIZES[number % len(SIZES)]
        canvas = np.full((*size, 3), 40.0)
        masks = [(category, polygon, as_mask(polygon, size)) for category, polygon in shapes(rng, size, number)]
        masks.sort(key=lambda shape: -shape[2].sum())
        for category, _, mask in masks:
            canvas[mask] = COLORS[category] + rng.normal(0, 12, 3)
        canvas += rng.normal(0, 4, canvas.shape)
        name = f"{number:03}.png"
        Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).save(folder / "pictures" / name)
        image_id = 1000 - 7 * number
        entries.append({"id": image_id, "file_name": name, "height": size[0], "width": size[1], "res": 2.0})
        for index, (category, polygon, mask) in enumerate(reversed(masks)):
            kinds = ([polygon], run_lengths(mask, compressed=True), run_lengths(mask, compressed=False))
            annotations.append(
                {"id": 5 + 3 * len(annotations), "image_id": image_id, "category_id": category, "iscrowd": 0}
                | {"segmentation": kinds[index % 3], "area": int(mask.sum()), "mass": 0.1 * mask.sum(), "gt_mass": True}
            )
    categories = [{"id": key, "name": name} for key, name in CATEGORIES.items()]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return f"coco://{folder}/annotations.json?images={folder}/pictures"


class Trained(NamedTuple):
    """A training: its folder, the data, and what it printed."""

    folder: Path
    uri: str
    log: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A tiny SOLOv2, trained and evaluated by the command line."""
    folder = tmp_path_factory.mktemp("solov2")
    uri = write_coco_set(folder / "data")
    sets = ["DATASETS.TRAIN", f"('{uri}',)", "DATASETS.TEST", f"('{uri}',)"]
    result = run_process("train_net.py", "--config-file", TINY_YAML, *sets, "OUTPUT_DIR", "out", cwd=folder)
    assert result.returncode == 0, result.stderr
    return Trained(folder, uri, result.stdout)


def evaluation_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text())


def test_it_learns_the_shapes_and_no_masses_although_the_ground_truth_has_some(trained: Trained) -> None:
    out = trained.folder / "out"
    evaluation = evaluation_of(out)
    results = evaluation["results"]
    assert results["segm"]["AP50"] > 70 and results["bbox"]["AP50"] > 70, results
    assert min(results["segm"][f"AP-{name}"] for name in CATEGORIES.values()) > 35
    assert set(evaluation) == {"settings", "results"} and set(results) == {"segm", "bbox"}
    assert evaluation["settings"]["power_law"] is None
    assert "mass" not in (out / "evaluation.txt").read_text().lower()
    assert not (out / "mass_pairs.csv").exists()
    found = json.loads((out / "predictions.json").read_text())
    assert len(found) > 50 and not any("mass" in result for result in found)
    for line in (out / "metrics.json").read_text().splitlines():
        assert not [name for name in json.loads(line) if "mass" in name]
    assert "Masses of predictions" not in trained.log and "Resolution unknown" not in trained.log


def test_pycocotools_finds_the_same_ap_in_the_users_own_file(trained: Trained) -> None:
    out = trained.folder / "out"
    results = evaluation_of(out)["results"]
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(trained.folder / "data/annotations.json"))
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(out / "predictions.json")), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = [results["segm"][name] for name in ("AP", "AP50", "AP75")]
    assert 100 * evaluation.stats[:3] == pytest.approx(expected, abs=1e-6)
    assert results["segm"]["AP"] > 40  # no agreement about nothing


def test_evaluating_again_gives_the_same(trained: Trained) -> None:
    arguments = ["--config-file", "out/config.yaml", "--eval-only", "MODEL.WEIGHTS", "out/model_final.pth"]
    result = run_process("train_net.py", *arguments, "OUTPUT_DIR", "again", cwd=trained.folder)
    assert result.returncode == 0, result.stderr
    assert evaluation_of(trained.folder / "again") == evaluation_of(trained.folder / "out")


def test_predict(trained: Trained) -> None:
    arguments = ["--config-file", "out/config.yaml", "--weights", "out/model_final.pth", "--input", trained.uri]
    result = run_process("predict.py", *arguments, "--output", "found", cwd=trained.folder)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(trained.folder / "found/annotations.csv")
    assert table["mass"].isna().all() and (table["res"] == 2).all() and (table["score"] >= 0.5).all()
    assert set(table["class"]) == set(CATEGORIES.values()) and len(table) > 30
    assert result.stdout.strip().splitlines()[-1] == f"{len(table)} particles in 12 images: found"


def test_the_predictor_gives_no_masses(trained: Trained, caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(str(trained.folder / "out/config.yaml"))
    cfg.MODEL.WEIGHTS = str(trained.folder / "out/model_final.pth")
    image = np.asarray(Image.open(trained.folder / "data/pictures/000.png"))[:, :, ::-1]
    for resolution in (None, 2.0):
        instances = RamsesPredictor(cfg)(image, resolution=resolution)["instances"]
        assert len(instances) >= 3
        assert set(instances.get_fields()) == {"pred_boxes", "scores", "pred_classes", "pred_masks"}
    assert "Resolution" not in caplog.text


def test_small_shapes_lie_on_top(tmp_path: Path) -> None:
    """The label map has the small shapes whole, and the large ones without what lies on them."""
    write_coco_set(tmp_path, images=4)
    dataset_dicts, names = load_coco(tmp_path / "annotations.json", tmp_path / "pictures")
    assert names == ["triangle", "disc", "box"]
    for dataset_dict in dataset_dicts:
        painted = np.bincount(read_label_map(dataset_dict).ravel())
        whole = {a["label"]: a["area"] for a in dataset_dict["annotations"]}
        hidden = [area - painted[label] for label, area in whole.items()]
        assert max(map(abs, hidden[-2:])) <= 2 and sum(hidden[:3]) > 50, hidden  # px


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_every_config_trains_a_step(path: Path, tmp_path: Path) -> None:
    """On two images of different sizes; they and the grids are smaller than the config's."""
    write_coco_set(tmp_path, images=2)
    dataset_dicts, _ = load_coco(tmp_path / "annotations.json", tmp_path / "pictures")
    cfg = load_config(str(path), ["MODEL.DEVICE", "cpu", *NO_DOWNLOAD, "MODEL.RAMSES.NUM_CLASSES", "3"])
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (64,), 128
    cfg.MODEL.RAMSES.GRID_SIZES = [10, 8, 6, 4, 3][: len(cfg.MODEL.RAMSES.GRID_SIZES)]
    mapper = RamsesDatasetMapper(cfg, is_train=True)
    items = [mapper(dataset_dict) for dataset_dict in dataset_dicts]
    assert items[0]["image"].shape != items[1]["image"].shape
    model = build_model(cfg)
    with EventStorage():
        losses = model(items)
    assert set(losses) == {"loss_cls", "loss_mask"} and all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
