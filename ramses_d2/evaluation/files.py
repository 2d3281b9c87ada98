"""The files of an evaluation."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
from matplotlib.figure import Figure

from ramses_d2.atomic_file import atomic_file
from ramses_d2.folder_swap import folder_swap

from .coco_results import FileIds
from .comparison import compare_image
from .confusion import confusion_matrix, confusion_table, draw_confusion
from .outcome import Outcome
from .precision_recall import draw_precision_recall, precision_recall_table
from .statistics import evaluation_statistics
from .worst import image_errors

_JPEG_QUALITY = 90
# An image of less badness is no bad one: half a percent of one particle's mass
_NOTICEABLE = 0.005
_PAIR_COLUMNS = [
    "image_name",
    "label",
    "prediction",
    "iou",
    "score",
    "true_class",
    "predicted_class",
    "true_mass",
    "predicted_mass",
    "gt_mass",
    "true_area",
    "predicted_area",
    "resolution",
    "power_law_mass",
]


def write_files(
    output_dir: str | Path,
    outcome: Outcome,
    dataset_dicts: Sequence[dict[str, Any]],
    ids: FileIds,
    *,
    settings: Mapping[str, Any],
    tables: str,
    worst_images: int,
) -> None:
    """Write all files of an evaluation; older ones are replaced, each only when the new one is complete.

    evaluation.json, evaluation.txt, mass_pairs.csv (if the model weighs), predictions.json, ground_truth.json,
    test_stats.json, confusion_matrix.{csv,png}, precision_recall.{csv,png} and worst/*.jpg.

    Args:
        output_dir: made if missing.
        outcome: of the evaluation.
        dataset dicts: dataset dicts.
        ids: that predictions.json and ground_truth.json carry.
        settings: for evaluation.json.
        tables: the printed tables, for evaluation.txt.
        worst_pictures: images in worst/ at the most.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    names = {dataset_dict["image_id"]: dataset_dict["image_name"] for dataset_dict in dataset_dicts}
    _write_json(folder / "predictions.json", ids.results(outcome.results))
    _write_json(folder / "ground_truth.json", ids.ground_truth(outcome.truth))
    evaluation: dict[str, Any] = {"settings": settings, "results": outcome.metrics()}
    if outcome.masses is not None:
        evaluation["mass"] = outcome.masses
        _write_table(folder / "mass_pairs.csv", _name_pairs(outcome, names))
    else:
        (folder / "mass_pairs.csv").unlink(missing_ok=True)  # of a network that weighed
    _write_json(folder / "evaluation.json", evaluation, indent=2)
    _write(folder / "evaluation.txt", (tables + "\n").encode())

    errors = image_errors(outcome)
    worst = errors[errors["badness"] >= _NOTICEABLE].head(worst_images)
    statistics = {"dataset": settings["dataset"]} | evaluation_statistics(outcome)
    statistics["worst"] = _draw_worst(folder / "worst", outcome, dataset_dicts, worst)
    _write_json(folder / "test_stats.json", statistics, indent=2)

    matrix = confusion_matrix(outcome)
    _write(folder / "confusion_matrix.csv", confusion_table(matrix, outcome.class_names).to_csv().encode())
    _write_figure(folder / "confusion_matrix.png", draw_confusion(matrix, outcome.class_names, outcome.report_thresh))
    curves = outcome.curves.get("segm") or next(iter(outcome.curves.values()))
    _write_table(folder / "precision_recall.csv", precision_recall_table(curves))
    _write_figure(folder / "precision_recall.png", draw_precision_recall(curves, outcome.report_thresh))


def _draw_worst(
    folder: Path, outcome: Outcome, dataset_dicts: Sequence[dict[str, Any]], worst: pd.DataFrame
) -> list[dict[str, Any]]:
    """Draw these images into a folder, by rank and name, and list them."""
    by_id = {dataset_dict["image_id"]: dataset_dict for dataset_dict in dataset_dicts}
    listed = []
    with folder_swap(folder) as unfinished:
        for rank, row in enumerate(worst.to_dict("records"), start=1):
            dataset_dict = by_id[row.pop("image_id")]
            name = f"{rank:02d}_" + re.sub(r"[^\w.-]+", "_", dataset_dict["image_name"]) + ".jpg"
            image = compare_image(outcome, dataset_dict)[:, :, ::-1]
            _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            (unfinished / name).write_bytes(encoded.tobytes())  # unlike cv2.imwrite, fails on a full disk
            listed.append({"picture": dataset_dict["image_name"], "file": f"{folder.name}/{name}"} | row)
    return listed


def _name_pairs(outcome: Outcome, names: Mapping[int, str]) -> pd.DataFrame:
    """Rows of mass_pairs.csv: files carry names, never ids."""
    classes = dict(enumerate(outcome.class_names))
    return outcome.pairs.assign(
        image_name=outcome.pairs["image_id"].map(names),
        true_class=outcome.pairs["true_class"].map(classes),
        predicted_class=outcome.pairs["predicted_class"].map(classes),
    ).reindex(columns=_PAIR_COLUMNS)


def _write_table(path: Path, table: pd.DataFrame) -> None:
    _write(path, table.to_csv(index=False, float_format="%.6g").encode())


def _write_json(path: Path, value: Any, indent: int | None = None) -> None:
    _write(path, (json.dumps(_strict(value), indent=indent, allow_nan=False) + "\n").encode())


def _write_figure(path: Path, figure: Figure) -> None:
    image = io.BytesIO()
    figure.savefig(image, format="png")
    _write(path, image.getvalue())


def _strict(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, content: bytes) -> None:
    with atomic_file(path, "wb") as stream:
        stream.write(content)
