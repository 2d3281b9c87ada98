"""Confusion, statistics and plots of an evaluation whose result is known by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from detectron2.utils.events import EventStorage
from matplotlib.figure import Figure
from PIL import Image

from ramses_d2.evaluation.plots import (
    ALONE,
    COLORS,
    RIGHT,
    WRONG_CLASS,
    compare_image,
    confusion_table,
    draw_confusion,
    draw_precision_recall,
    precision_recall_table,
    store_images,
)
from ramses_d2.evaluation.result import confusion_matrix, evaluation_stats, image_errors
from tests.evaluation.scene import CLASSES, GLASS, SIZE, evaluated, found, results

BY_HAND = [
    [2, 0, 0, 1],  # two bricks right, one missed
    [1, 1, 0, 0],  # a glass taken for a brick
    [0, 0, 0, 0],
    [0, 1, 0, 0],  # an extra; neither the unsure one nor that in the crowd region
]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("has_mass", [True, False])
def test_confusion_by_hand(has_mass: bool) -> None:
    matrix = confusion_matrix(evaluated(has_mass=has_mass))
    assert matrix.tolist() == BY_HAND
    table = confusion_table(matrix, CLASSES)
    assert table.loc["glass", "brick"] == 1 and table.loc["brick", "(missed)"] == 1
    assert table.loc["(background)", "glass"] == 1
    matrix = confusion_matrix(evaluated([], has_mass=has_mass))
    assert matrix[:, -1].tolist() == [3, 2, 0, 0] and matrix[:, :-1].sum() == 0


def test_the_plot_of_the_confusion_has_counts_and_shares() -> None:
    figure = draw_confusion(np.array(BY_HAND), CLASSES, 0.5)
    assert texts(figure) == ["2\n67 %", "1\n33 %", "1\n50 %", "1\n50 %", "1"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [*CLASSES, "(background)"]
    assert draw_confusion(np.zeros((2, 2), dtype=int), ("only",), 0.5).axes  # nothing there, nothing found


def test_cells_and_names_of_many_classes_do_not_shrink() -> None:
    names = tuple(f"recycled material with a long name {n}" for n in range(20))
    figure = draw_confusion(np.full((21, 21), 1234), names, 0.5)
    figure.draw_without_rendering()
    box = figure.axes[0].get_window_extent()
    cell = box.width / 21
    assert all(text.get_window_extent().width < cell for text in figure.axes[0].texts)
    labels = [*figure.axes[0].get_xticklabels(), *figure.axes[0].get_yticklabels(), figure.axes[0].xaxis.label]
    assert all(figure.bbox.containsx(x) for label in labels for x in label.get_window_extent().intervalx)
    assert all(figure.bbox.containsy(y) for label in labels for y in label.get_window_extent().intervaly)


def test_counts_and_rates_by_hand() -> None:
    statistics = evaluation_stats(evaluated())
    assert [statistics[key] for key in ("pictures", "crowd_regions", "max_dets", "report_thresh")] == [3, 1, 100, 0.5]
    counts = ("objects", "predictions", "reported", "found")
    rates = ("class_accuracy", "precision", "recall", "f1")
    for found_here, numbers, percentages in zip(
        (statistics["all"], *statistics["per_class"]),
        ([5, 7, 5, 4], [3, 3, 3, 2], [2, 4, 2, 2], [0, 0, 0, 0]),
        ([75, 60, 60, 60], [100, 200 / 3, 200 / 3, 200 / 3], [50, 50, 50, 50], [np.nan] * 4),
        strict=True,
    ):
        assert [found_here[key] for key in counts] == numbers
        assert [found_here[key] for key in rates] == pytest.approx(percentages, nan_ok=True)


def test_precisions_of_all_are_the_mean_of_the_classes() -> None:
    statistics = evaluation_stats(evaluated())
    names = {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR@100", "ARs@100", "AP_by_IoU"}
    assert names <= set(statistics["all"]["segm"])
    for task in ("segm", "bbox"):
        for name in ("AP", "AP50", "AR@100"):
            values = [metrics[task][name] for metrics in statistics["per_class"]]
            assert statistics["all"][task][name] == pytest.approx(np.nanmean(values))
            assert np.isnan(values[2])


def test_masses_by_hand() -> None:
    """Totals: 3 + 4 + 6 + 9 against 2 + 4 + 1 + 1 g; the glass of unknown mass and the crowd are left out."""
    statistics = evaluation_stats(evaluated())
    mass = statistics["all"]["mass"]
    assert (mass["true_g"], mass["predicted_g"], mass["error_g"]) == (8, 22, 14)
    assert mass["error_percent"] == 175 and mass["excluded"] == 2 and mass["weighed"] == 4
    assert mass["pairs"] == 3 and mass["MAPE"] == pytest.approx((50 + 0 + 800) / 3)
    brick = statistics["per_class"][0]["mass"]
    assert (brick["true_g"], brick["predicted_g"]) == (4, 16)
    assert brick["share_percent"] == {"true": 50, "predicted": pytest.approx(1600 / 22)}
    assert evaluation_stats(evaluated(has_mass=False))["all"]["mass"] is None


def test_error_scores_by_hand() -> None:
    table = image_errors(evaluated())
    assert table["image_id"].tolist() == [1, 2, 3]
    assert table["badness"].tolist() == [3.5, 1.0, 0.0]  # nine times too heavy counts no more than a miss
    names = ["image_id", "particles", "predictions", "missed", "false", "wrong_class", "mass_error", "badness"]
    assert table.columns.tolist() == names and table.iloc[0].tolist() == [1, 4, 4, 1, 1, 1, 0.5, 3.5]
    plain = image_errors(evaluated([{k: v for k, v in r.items() if k != "mass"} for r in results()], has_mass=False))
    assert plain["badness"].tolist() == [3.0, 0.0, 0.0]
    assert image_errors(evaluated([]))["badness"].tolist() == [4.0, 1.0, 0.0]


def test_precision_recall_by_hand() -> None:
    """Bricks by score: right .9, right .9, wrong .8; two of three are found."""
    table = precision_recall_table(evaluated().curves["segm"])
    assert set(table["class"]) == {"brick", "glass"} and set(table["iou"]) == {0.5, 0.75}
    assert len(table) == 2 * 2 * 101
    brick = table[(table["class"] == "brick") & (table["iou"] == 0.5)].set_index("recall")
    assert brick.loc[:0.66, "precision"].tolist() == [1.0] * 67 and (brick.loc[0.67:, "precision"] == 0).all()
    assert set(brick.loc[:0.66, "score"]) == {0.9} and brick.loc[0.67:, "score"].isna().all()


def test_a_threshold_can_be_read_off() -> None:
    """Of two glasses the second costs an extra: its precision is 2/3, and its score the one to choose."""
    results = [found(1, GLASS, 20, 0.9, 1.0), found(1, GLASS, 90, 0.8, 1.0), found(1, GLASS, 60, 0.4, 1.0)]
    table = precision_recall_table(evaluated(results).curves["segm"])
    rows = table[(table["class"] == "glass") & (table["iou"] == 0.5)].set_index("recall")
    assert rows.loc[0.5, ["precision", "score"]].tolist() == [1.0, 0.9]
    assert rows.loc[1.0, ["precision", "score"]].tolist() == pytest.approx([2 / 3, 0.4])


def test_the_plot_has_a_line_per_class_and_panel() -> None:
    curves = evaluated().curves["segm"]
    figure = draw_precision_recall(curves, 0.5)
    assert [len(axes.lines) for axes in figure.axes] == [3, 3, 3]  # two classes and the mean, or the threshold
    assert np.mean(figure.axes[0].lines[-1].get_ydata()) == pytest.approx(curves.summary()["AP50"] / 100)


def test_nothing_to_draw() -> None:
    curves = evaluated([]).curves["segm"]
    assert (precision_recall_table(curves)["precision"] == 0).all()
    draw_precision_recall(curves, 0.5).draw_without_rendering()
    undefined = np.full((10, 101, 1, 4), -1.0)
    empty = type(curves)(undefined, undefined, np.zeros((10, 1, 4)), ("x",), 9)
    assert precision_recall_table(empty).empty
    draw_precision_recall(empty, 0.5).draw_without_rendering()


@pytest.fixture
def dataset_dicts(tmp_path: Path) -> list[dict]:
    height, width = SIZE
    path = tmp_path / "grey.png"
    Image.new("RGB", (width, height), (90, 90, 90)).save(path)
    common = {"file_name": str(path), "height": height, "width": width}
    return [common | {"image_id": image_id, "image_name": f"a b/{image_id}"} for image_id in (1, 2, 3)]


def state_at(half: np.ndarray, x: float, y: float) -> int | None:
    """Whose colour the contour nearest to a place of the image has; half = one drawing with its heading."""
    scale = half.shape[1] / SIZE[1]
    heading = half.shape[0] - round(SIZE[0] * scale)
    row, column = heading + int(y * scale), int(x * scale)
    reach = int(1.5 * scale)
    window = half[row - reach : row + reach, column - reach : column + reach].reshape(-1, 3).astype(int)
    near = [int((np.abs(window - color).max(axis=1) < 20).sum()) for color in COLORS]
    return int(np.argmax(near)) if max(near) > 5 else None


def test_every_particle_has_the_colour_of_its_fate(dataset_dicts: list[dict]) -> None:
    drawing = compare_image(evaluated(), dataset_dicts[0])
    assert drawing.dtype == np.uint8 and drawing.shape[2] == 3
    middle = drawing.shape[1] // 2
    true, predicted = drawing[:, : middle - 4], drawing[:, middle + 4 :]
    bottom, places = 13.0, (0, 20, 40, 60, 90, 110)  # lower edge of all particles
    assert [state_at(true, x + 2, bottom) for x in places[:-1]] == [RIGHT, WRONG_CLASS, ALONE, RIGHT, None]
    # The last one is below the threshold
    states = [RIGHT, WRONG_CLASS, None, RIGHT, ALONE, None]
    assert [state_at(predicted, x + 2, bottom) for x in places] == states
    assert state_at(predicted, 12, 69) is None  # in the crowd region
    assert compare_image(evaluated(), dataset_dicts[2], 300).shape[1] == 2 * 300 + 8
    compare_image(evaluated([], has_mass=False), dataset_dicts[0])


def test_wide_images_stand_one_above_the_other(tmp_path: Path) -> None:
    scene = evaluated()
    mask = np.zeros((20, 4000), dtype=np.uint8, order="F")
    mask[5:15, 100:900] = 1
    for entry in [*scene.ground_truth["annotations"], *scene.results]:
        entry["segmentation"] = mask_utils.encode(mask)
    Image.new("RGB", (4000, 20)).save(tmp_path / "wide.png")
    dataset_dict = {"file_name": str(tmp_path / "wide.png"), "image_id": 2, "height": 20, "width": 4000}
    drawing = compare_image(scene, dataset_dict, 800)
    assert drawing.shape[1] == 800 and drawing.shape[0] > 2 * 800 * 20 / 4000


def test_drawings_of_particles_of_other_sizes_stand_side_by_side(tmp_path: Path) -> None:
    """One side is enlarged more for its small particle."""
    scene = evaluated()
    for entries, side in ((scene.ground_truth["annotations"], 6), (scene.results, 300)):
        mask = np.zeros((600, 600), dtype=np.uint8, order="F")
        mask[5 : 5 + side, 5 : 5 + side] = 1
        for entry in entries:
            entry["segmentation"] = mask_utils.encode(mask)
    Image.new("RGB", (600, 600)).save(tmp_path / "a.png")
    dataset_dict = {"file_name": str(tmp_path / "a.png"), "image_id": 2, "height": 600, "width": 600}
    drawing = compare_image(scene, dataset_dict)
    assert drawing.shape[1] == 2 * 1600 + 8


def test_images_are_stored_in_a_training_only(dataset_dicts: list[dict]) -> None:
    store_images(evaluated(), dataset_dicts, 2)  # no training: nothing happens
    with EventStorage() as storage:
        store_images(evaluated(), dataset_dicts, 0)
        assert not storage._vis_data
        store_images(evaluated(), dataset_dicts, 2)
        store_images(evaluated(), dataset_dicts[:1], 4)
    assert [name for name, *_ in storage._vis_data] == ["valid/a b/1", "valid/a b/3", "valid/a b/1"]
    assert all(image.shape[0] == 3 and max(image.shape) <= 2000 for _, image, _ in storage._vis_data)
