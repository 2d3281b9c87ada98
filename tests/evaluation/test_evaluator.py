"""The evaluator from end to end, on made and on real data."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from ramses_d2.data.catalog import register
from ramses_d2.data.coco import coco_ground_truth
from ramses_d2.data.folder import load_folder
from ramses_d2.data.images import read_label_map
from ramses_d2.evaluation.evaluator import RamsesEvaluator
from ramses_d2.evaluation.masses import PowerLaw, fit_power_law
from ramses_d2.masks import RLEMasks, encode_label_map
from tests.conftest import refused

NAME = "evaluator_test"
Data = Callable[..., list[dict]]
FILES = """confusion_matrix.csv confusion_matrix.png evaluation.json evaluation.txt ground_truth.json mass_pairs.csv
precision_recall.csv precision_recall.png predictions.json test_stats.json""".split()


@pytest.fixture
def data_set(tiny_folder: Callable[..., Path]) -> Iterator[Data]:
    """Register a small folder as ``NAME`` and return its dataset dicts."""

    def _register(repeat: int = 1, **options: object) -> list[dict]:
        dataset_dicts, classes = load_folder(tiny_folder(**options))
        DatasetCatalog.register(NAME, lambda: dataset_dicts * repeat)
        MetadataCatalog.get(NAME).set(thing_classes=classes, evaluator_type="ramses")
        return dataset_dicts

    yield _register
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def perfect(dataset_dict: dict, *, masses: bool = True, as_rle: bool = False) -> Instances:
    """What a flawless model says of an image, with scores from .9 down."""
    label_map = read_label_map(dataset_dict)
    annotations = dataset_dict["annotations"]
    labels = [a["label"] for a in annotations]
    found = Instances(label_map.shape)
    found.pred_boxes = Boxes(torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4).float())
    found.scores = torch.linspace(0.9, 0.6, len(labels))
    found.pred_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
    found.pred_masks = RLEMasks(encode_label_map(label_map, labels))
    if not as_rle:
        masks = np.array([label_map == label for label in labels]).reshape(-1, *label_map.shape)
        found.pred_masks = torch.from_numpy(masks)
    if masses:
        found.pred_masses = torch.tensor([a["mass"] for a in annotations], dtype=torch.float32)
    return found


def evaluate(
    dataset_dicts: list[dict], outputs: list[Instances], output_dir: Path | None = None, **options: object
) -> dict[str, dict[str, float]]:
    options = {"max_dets": 1000, "report_thresh": 0.5} | options
    evaluator = RamsesEvaluator(NAME, output_dir=output_dir, **options)
    evaluator.reset()
    for dataset_dict, found in zip(dataset_dicts, outputs, strict=True):
        evaluator.process([{"image_id": dataset_dict["image_id"]}], [{"instances": found}])
    return evaluator.evaluate()


def test_perfect_predictions(data_set: Data, tmp_path: Path) -> None:
    dataset_dicts = data_set(count=9)
    out = tmp_path / "out"
    law = fit_power_law(dataset_dicts)
    results = evaluate(dataset_dicts, [perfect(r) for r in dataset_dicts], out, power_law=law)
    assert list(results) == ["segm", "bbox", "mass"]
    for task in ("segm", "bbox"):
        assert results[task]["AP"] == results[task]["AP-glass"] == pytest.approx(100)
        assert np.isnan(results[task]["APl"])
    mass = results["mass"]
    assert mass["MAPE"] == pytest.approx(0, abs=1e-4) and mass["R2"] == pytest.approx(1)
    assert mass["TotalError"] == mass["TotalErrorMatched"] == pytest.approx(0, abs=1e-4)
    assert mass["pairs"] == mass["pairs75"] == mass["ground_truth"] == mass["predictions"] == 18
    assert mass["class_accuracy"] == 100
    assert mass["power_law_MAPE"] == pytest.approx(0, abs=1e-3)  # masses of the fixture go by class and area
    assert all(type(value) is float for metrics in results.values() for value in metrics.values())

    assert sorted(path.name for path in out.iterdir()) == [*FILES, "worst"]
    assert not list((out / "worst").iterdir())  # nothing is wrong anywhere
    listed = json.loads((out / "predictions.json").read_text())
    assert len(listed) == 18
    assert listed[0]["mass"] == pytest.approx(dataset_dicts[0]["annotations"][0]["mass"], rel=1e-6)
    saved = json.loads((out / "evaluation.json").read_text(), parse_constant=pytest.fail)  # strict: no NaN
    assert saved["results"]["segm"]["APl"] is None
    assert saved["settings"]["max_dets"] == 1000 and saved["settings"]["power_law"]["laws"]
    rows, first = pd.read_csv(out / "mass_pairs.csv"), dataset_dicts[0]["annotations"][0]
    assert len(rows) == 18
    row = rows.iloc[0]
    assert (row["image_name"], row["label"], row["true_class"]) == ("demo/img0", first["label"], "brick")
    assert row["true_mass"] == pytest.approx(first["mass"], rel=1e-5)
    assert row["power_law_mass"] == pytest.approx(first["mass"], rel=1e-3)
    assert row["predicted_area"] == first["area"]


def test_masks_and_rle_give_the_same(data_set: Data, tmp_path: Path) -> None:
    dataset_dicts = data_set()
    found = []
    for as_rle in (False, True):
        out = tmp_path / str(as_rle)
        evaluate(dataset_dicts, [perfect(r, as_rle=as_rle) for r in dataset_dicts], out)
        found.append([(out / name).read_bytes() for name in FILES])
    assert found[0] == found[1]


def test_in_between_by_hand(data_set: Data) -> None:
    """Four particles: one right and 50 % too heavy, one of the wrong class, one missed, one unreported."""
    (dataset_dict,) = data_set(sizes=((64, 96),), count=4, classes=("brick", "glass"))
    found = perfect(dataset_dict)[:3]
    found.scores = torch.tensor([0.9, 0.8, 0.3])
    found.pred_classes[1] = 0
    found.pred_masses[0] *= 1.5
    true = [a["mass"] for a in dataset_dict["annotations"]]
    mass = evaluate([dataset_dict], [found])["mass"]
    assert (mass["pairs"], mass["predictions"], mass["ground_truth"]) == (2, 2, 4)
    assert (mass["MAPE"], mass["Bias"]) == pytest.approx((25, 25), rel=1e-5)
    assert mass["class_accuracy"] == 50
    predicted = 1.5 * true[0] + true[1]
    assert mass["TotalErrorGrams"] == pytest.approx(predicted - sum(true), rel=1e-5)
    assert mass["TotalErrorMatched"] == pytest.approx(100 * 0.5 * true[0] / (true[0] + true[1]), rel=1e-5)


def test_a_duplicate_costs_no_other_prediction_its_class_or_mass(data_set: Data) -> None:
    """The original misaligned its arrays here and lost a class."""
    dataset_dicts = data_set(sizes=((64, 96),))
    outputs = [perfect(r) for r in dataset_dicts]
    twice = Instances.cat([outputs[0], outputs[0][2:3]])  # a second glass, as sure as the first
    results = evaluate(dataset_dicts, [twice])
    assert results["segm"]["AP-brick"] == results["segm"]["AP-concrete"] == pytest.approx(100)
    assert 50 < results["segm"]["AP-glass"] < 100
    mass = results["mass"]
    assert (mass["pairs"], mass["predictions"]) == (6, 7)
    assert mass["MAPE"] == pytest.approx(0, abs=1e-4)
    assert mass["TotalErrorMatched"] == pytest.approx(0, abs=1e-4)
    glass = dataset_dicts[0]["annotations"][2]["mass"]
    assert mass["TotalErrorGrams"] == pytest.approx(glass, rel=1e-5)  # the duplicate counts as an extra
    twice = Instances.cat([outputs[0][:1], outputs[0][:1]])
    twice.scores, twice.pred_masses = torch.tensor([0.6, 0.7]), twice.pred_masses * torch.tensor([9.0, 1.1])
    mass = evaluate(dataset_dicts, [twice])["mass"]
    assert mass["pairs"] == 1 and mass["MAPE"] == pytest.approx(10, rel=1e-4)  # the surer of the two counts


def test_the_worst_images_are_drawn_by_rank(data_set: Data, tmp_path: Path) -> None:
    dataset_dicts = data_set(sizes=((64, 96),) * 4, count=6)
    outputs = [perfect(dataset_dict)[:kept] for dataset_dict, kept in zip(dataset_dicts, (5, 6, 2, 0), strict=True)]
    evaluate(dataset_dicts, outputs, tmp_path, worst_images=2)
    assert sorted(path.name for path in (tmp_path / "worst").iterdir()) == ["01_demo_img3.jpg", "02_demo_img2.jpg"]
    with Image.open(tmp_path / "worst/02_demo_img2.jpg") as image:
        assert image.width > 2 * image.height > 1000
    listed = json.loads((tmp_path / "test_stats.json").read_text())["worst"]
    assert [(entry["picture"], entry["file"], entry["missed"]) for entry in listed] == [
        *(("demo/img3", "worst/01_demo_img3.jpg", 6), ("demo/img2", "worst/02_demo_img2.jpg", 4)),
    ]
    # The next evaluation leaves none of these behind
    outputs[2:] = [perfect(dataset_dict) for dataset_dict in dataset_dicts[2:]]
    evaluate(dataset_dicts, outputs, tmp_path, worst_images=2)
    assert [path.name for path in (tmp_path / "worst").iterdir()] == ["01_demo_img0.jpg"]
    assert not list(tmp_path.glob("*unfinished*")) and not list(tmp_path.glob("*replaced*"))


def test_no_predictions(data_set: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset_dicts = data_set()
    with caplog.at_level(logging.WARNING):
        results = evaluate(dataset_dicts, [perfect(r)[:0] for r in dataset_dicts], tmp_path / "out")
    assert "found nothing in 2 images" in caplog.text
    assert results["segm"]["AP"] == 0
    assert results["mass"]["TotalError"] == -100
    assert np.isnan(results["mass"]["MAPE"]) and results["mass"]["pairs"] == 0
    assert json.loads((tmp_path / "out/predictions.json").read_text()) == []
    assert (tmp_path / "out/mass_pairs.csv").read_text().startswith("image_name,label,")
    with caplog.at_level(logging.WARNING):  # no score is high enough
        mass = evaluate(dataset_dicts, [perfect(r) for r in dataset_dicts], report_thresh=0.95)["mass"]
    assert "highest score seen is 0.900" in caplog.text
    assert mass["predictions"] == 0 and mass["TotalError"] == -100


def test_no_ground_truth(data_set: Data) -> None:
    dataset_dicts = data_set(count=(0, 0))
    MetadataCatalog.remove(NAME)
    MetadataCatalog.get(NAME).set(thing_classes=["brick"])
    found = Instances((64, 96))
    found.pred_boxes, found.scores = Boxes(torch.tensor([[3.0, 2, 9, 6]])), torch.tensor([0.9])
    found.pred_classes = torch.tensor([0])
    found.pred_masks = torch.zeros(1, 64, 96, dtype=torch.bool)
    found.pred_masks[0, 2:6, 3:9] = True
    found.pred_masses = torch.tensor([2.5])
    results = evaluate(dataset_dicts[:1], [found])
    assert np.isnan(results["segm"]["AP"])
    assert results["mass"]["TotalErrorGrams"] == 2.5 and np.isnan(results["mass"]["TotalError"])


def test_unknown_masses(data_set: Data, tmp_path: Path) -> None:
    dataset_dicts = data_set(nan_masses=True)
    outputs = [perfect(r) for r in dataset_dicts]
    results = evaluate(dataset_dicts, outputs, tmp_path)
    assert results["segm"]["AP"] == pytest.approx(100)
    assert np.isnan(results["mass"]["MAPE"]) and np.isnan(results["mass"]["TotalError"])
    assert results["mass"]["pairs"] == 12 and results["mass"]["weighed"] == 0
    assert json.loads((tmp_path / "predictions.json").read_text())[0]["mass"] is None

    plain = [perfect(r, masses=False) for r in dataset_dicts]  # plain SOLOv2 on plain data
    assert list(evaluate(dataset_dicts, plain, tmp_path / "plain")) == ["segm", "bbox"]
    assert not (tmp_path / "plain" / "mass_pairs.csv").exists()


def test_an_image_counts_once(data_set: Data) -> None:
    dataset_dicts = data_set(repeat=3)
    once = evaluate(dataset_dicts, [perfect(r) for r in dataset_dicts])
    outputs = [perfect(r) for r in dataset_dicts * 3]
    many = evaluate(dataset_dicts * 3, outputs)
    assert many["mass"]["predictions"] == many["mass"]["ground_truth"] == 12
    np.testing.assert_equal(many, once)
    for found in outputs:
        found.pred_masses[:] = float("nan")
    mass = evaluate(dataset_dicts * 3, outputs)["mass"]  # unknown predicted masses are not zeros
    assert np.isnan(mass["MAPE"]) and np.isnan(mass["TotalError"]) and mass["pairs"] == 12


def test_empty_masks_and_an_image_left_out(data_set: Data, caplog: pytest.LogCaptureFixture) -> None:
    dataset_dicts = data_set()
    found = perfect(dataset_dicts[0])
    found.pred_masks[0] = False
    with caplog.at_level(logging.WARNING):
        mass = evaluate(dataset_dicts[:1], [found])["mass"]
    assert "1 of 2 images were not predicted" in caplog.text
    assert (mass["pairs"], mass["ground_truth"]) == (5, 12)


def test_log_shows_everything_in_110_columns(data_set: Data, caplog: pytest.LogCaptureFixture) -> None:
    classes = [f"recycled material number {n}" for n in range(1, 16)]
    dataset_dicts = data_set(sizes=((120, 160), (120, 160)), count=60, classes=classes)
    outputs = [perfect(r) for r in dataset_dicts]
    for found in outputs:
        found.pred_masses *= 1.07
        found.pred_masses[0] = float("nan")
    dataset_dicts[0]["annotations"][5] |= {"mass": float("nan"), "gt_mass": False}
    dataset_dicts[0]["annotations"][6]["gt_mass"] = False
    law = PowerLaw({}, (0.1, 1.0))
    with caplog.at_level(logging.INFO):
        evaluate(dataset_dicts, outputs, power_law=law)
    text = "\n".join(record.getMessage() for record in caplog.records)
    for shown in (
        *("segm AP", "recycled material ", "matched"),
        "Power law in class and area on the same masks: MAPE",
        "Composition by mass, predicted (true), %: recycled material ",
        "Total error by least score, %: 0.1: ",
        "2 predictions have no mass",
        "1 of 120 particles have no known mass; 1 predictions",
        "1 of 119 true masses are estimates",
    ):
        assert shown in text, shown
    assert max(len(line) for line in text.splitlines()) <= 110


def test_faults(data_set: Data) -> None:
    dataset_dicts = data_set()
    found = perfect(dataset_dicts[0])
    stranger = dict(dataset_dicts[0], image_id=77)
    with refused(NAME, "image_id 77"):
        evaluate([stranger], [found])
    found.pred_classes[0] = 3
    with refused(NAME, "class id 3", "3 classes", "MODEL.RAMSES.NUM_CLASSES"):
        evaluate(dataset_dicts[:1], [found])
    dataset_dicts.clear()
    with refused(NAME, "no image"):
        evaluate([], [])


def one_of_two_processes(rank: int, folder: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=2)
    dataset_dicts, classes = load_folder(folder)
    DatasetCatalog.register(NAME, lambda: dataset_dicts)
    MetadataCatalog.get(NAME).set(thing_classes=classes)
    mine = dataset_dicts if rank == 1 else []  # the main process has nothing of its own
    results = evaluate(mine, [perfect(r) for r in mine])
    Path(out, f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def test_two_processes_the_main_one_without_images(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    mp.spawn(one_of_two_processes, args=(str(tiny_folder()), str(tmp_path)), nprocs=2)
    main, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert other == {}
    assert main["segm"]["AP"] == pytest.approx(100)
    assert main["mass"]["pairs"] == 12


DATA = (Path(__file__).parents[2] / "../shared/data").resolve()


def ground_truth_as_prediction(dataset_dict: dict) -> Instances:
    """The annotated masks, overlaps included."""
    annotations = coco_ground_truth([dataset_dict], [])["annotations"]
    instances = Instances((dataset_dict["height"], dataset_dict["width"]))
    instances.pred_masks = RLEMasks(a["segmentation"] for a in annotations)
    boxes = torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4)
    instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
    instances.pred_classes = torch.tensor([a["category_id"] - 1 for a in annotations])
    instances.scores = torch.linspace(1.0, 0.6, len(annotations))
    return instances


MUSHROOMS = f"coco://{DATA}/mushrooms/_annotations.coco.json?images={DATA}/mushrooms"


@pytest.mark.skipif(not DATA.is_dir(), reason="the real photographs (shared/data) are not at hand")
@pytest.mark.parametrize(("uri", "most"), [(f"ramses://{DATA}/gravel", 190), (MUSHROOMS, 241)])
def test_more_than_a_hundred_objects_an_image(uri: str, most: int, tmp_path: Path) -> None:
    dataset_dicts = DatasetCatalog.get(register(uri))
    assert max(len(dataset_dict["annotations"]) for dataset_dict in dataset_dicts) == most
    outputs = [{"instances": ground_truth_as_prediction(dataset_dict)} for dataset_dict in dataset_dicts]
    options = {"output_dir": str(tmp_path), "report_thresh": 0.5, "tasks": ("segm",), "distributed": False}
    scores = {}
    for max_dets in (100, 1000):
        evaluator = RamsesEvaluator(uri, max_dets=max_dets, **options)
        evaluator.process(dataset_dicts, outputs)
        results = evaluator.evaluate()
        scores[max_dets] = results["segm"]["AP"]
        assert "mass" not in results  # nothing was weighed, nothing was predicted
    assert scores[1000] == pytest.approx(100.0) and scores[100] < 80
