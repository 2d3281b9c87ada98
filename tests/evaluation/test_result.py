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
from tests.evaluation.scene import BRICK, CLASSES, GLASS, SIZE, found, outcome, results

BY_HAND = [
    [2, 0, 0, 1],  # two bricks right, one missed
    [1, 1, 0, 0],  # a glass taken for a brick
    [0, 0, 0, 0],
    [0, 1, 0, 0],  # an extra; neither the unsure one nor that in the crowd region
]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("has_mass", [True, False])
def test_by_hand(has_mass: bool) -> None:
    matrix = confusion_matrix(outcome(has_mass=has_mass))
    assert matrix.tolist() == BY_HAND
    table = confusion_table(matrix, CLASSES)
    assert table.loc["glass", "brick"] == 1 and table.loc["brick", "(missed)"] == 1
    assert table.loc["(background)", "glass"] == 1


def test_all_is_missed_without_predictions() -> None:
    matrix = confusion_matrix(outcome([]))
    assert matrix[:, -1].tolist() == [3, 2, 0, 0] and matrix[:, :-1].sum() == 0


def test_the_image_has_counts_and_shares() -> None:
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
    statistics = evaluation_stats(outcome())
    assert {key: statistics[key] for key in ("pictures", "crowd_regions", "max_dets", "report_thresh")} == {
        "pictures": 3,
        "crowd_regions": 1,
        "max_dets": 100,
        "report_thresh": 0.5,
    }
    whole, brick, glass, never = statistics["all"], *statistics["per_class"]
    counts = ("objects", "predictions", "reported", "found")
    assert [whole[key] for key in counts] == [5, 7, 5, 4]
    assert [brick[key] for key in counts] == [3, 3, 3, 2]
    assert [glass[key] for key in counts] == [2, 4, 2, 2]
    assert [never[key] for key in counts] == [0, 0, 0, 0]
    rates = ("class_accuracy", "precision", "recall", "f1")
    assert [whole[key] for key in rates] == pytest.approx([75, 60, 60, 60])
    assert [brick[key] for key in rates] == pytest.approx([100, 200 / 3, 200 / 3, 200 / 3])
    assert [glass[key] for key in rates] == pytest.approx([50, 50, 50, 50])
    assert all(np.isnan(never[key]) for key in rates)


def test_precisions_of_all_are_the_mean_of_the_classes() -> None:
    statistics = evaluation_stats(outcome())
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR@100", "ARs@100", "AP_by_IoU"} <= set(
        statistics["all"]["segm"]
    )
    for task in ("segm", "bbox"):
        for name in ("AP", "AP50", "AR@100"):
            values = [figures[task][name] for figures in statistics["per_class"]]
            assert statistics["all"][task][name] == pytest.approx(np.nanmean(values))
            assert np.isnan(values[2])


def test_masses_by_hand() -> None:
    """Totals: 3 + 4 + 6 + 9 against 2 + 4 + 1 + 1 g; the glass of unknown mass and the crowd are left out."""
    statistics = evaluation_stats(outcome())
    mass = statistics["all"]["mass"]
    assert (mass["true_g"], mass["predicted_g"], mass["error_g"]) == (8, 22, 14)
    assert mass["error_percent"] == 175 and mass["excluded"] == 2 and mass["weighed"] == 4
    assert mass["pairs"] == 3 and mass["MAPE"] == pytest.approx((50 + 0 + 800) / 3)
    brick = statistics["per_class"][0]["mass"]
    assert (brick["true_g"], brick["predicted_g"]) == (4, 16)
    assert brick["share_percent"] == {"true": 50, "predicted": pytest.approx(1600 / 22)}
    assert evaluation_stats(outcome(has_mass=False))["all"]["mass"] is None


def test_badness_by_hand() -> None:
    table = image_errors(outcome())
    assert table["image_id"].tolist() == [1, 2, 3]
    assert table["badness"].tolist() == [3.5, 1.0, 0.0]  # nine times too heavy counts no more than a miss
    assert table.iloc[0].drop("image_id").to_dict() == {
        "particles": 4,
        "predictions": 4,
        "missed": 1,
        "false": 1,
        "wrong_class": 1,
        "mass_error": 0.5,
        "badness": 3.5,
    }


def test_badness_without_masses_and_without_predictions() -> None:
    plain = image_errors(outcome([{k: v for k, v in r.items() if k != "mass"} for r in results()], has_mass=False))
    assert plain["badness"].tolist() == [3.0, 0.0, 0.0]
    assert image_errors(outcome([]))["badness"].tolist() == [4.0, 1.0, 0.0]


def test_by_hand_of_precision_recall() -> None:
    """Bricks by score: right .9, right .9, wrong .8; two of three are found."""
    table = precision_recall_table(outcome().curves["segm"])
    assert set(table["class"]) == {"brick", "glass"} and set(table["iou"]) == {0.5, 0.75}
    assert len(table) == 2 * 2 * 101
    brick = table[(table["class"] == "brick") & (table["iou"] == 0.5)].set_index("recall")
    assert brick.loc[:0.66, "precision"].tolist() == [1.0] * 67 and (brick.loc[0.67:, "precision"] == 0).all()
    assert set(brick.loc[:0.66, "score"]) == {0.9} and brick.loc[0.67:, "score"].isna().all()


def test_a_threshold_can_be_read_off() -> None:
    """Of two glasses the second costs an extra: its precision is 2/3, and its score the one to choose."""
    results = [found(1, GLASS, 20, 0.9, 1.0), found(1, GLASS, 90, 0.8, 1.0), found(1, GLASS, 60, 0.4, 1.0)]
    table = precision_recall_table(outcome(results).curves["segm"])
    rows = table[(table["class"] == "glass") & (table["iou"] == 0.5)].set_index("recall")
    assert rows.loc[0.5, ["precision", "score"]].tolist() == [1.0, 0.9]
    assert rows.loc[1.0, ["precision", "score"]].tolist() == pytest.approx([2 / 3, 0.4])


def test_the_image_has_a_line_per_class_and_panel() -> None:
    figure = draw_precision_recall(outcome().curves["segm"], 0.5)
    assert [len(axes.lines) for axes in figure.axes] == [3, 3, 3]  # two classes and the mean, or the threshold
    mean = figure.axes[0].lines[-1].get_ydata()
    assert np.mean(mean) == pytest.approx(outcome().curves["segm"].summary()["AP50"] / 100)


def test_nothing_to_draw() -> None:
    curves = outcome([]).curves["segm"]
    assert (precision_recall_table(curves)["precision"] == 0).all()
    draw_precision_recall(curves, 0.5).draw_without_rendering()
    empty = type(curves)(
        np.full((10, 101, 1, 4), -1.0), np.full((10, 101, 1, 4), -1.0), np.zeros((10, 1, 4)), ("x",), 9
    )
    assert precision_recall_table(empty).empty
    draw_precision_recall(empty, 0.5).draw_without_rendering()


def test_without_bricks_there_are_no_rows_of_bricks() -> None:
    scene = outcome([found(1, BRICK, 0, 0.9, 1.0)])
    assert "never seen" not in set(precision_recall_table(scene.curves["bbox"])["class"])


@pytest.fixture
def dataset_dicts(tmp_path: Path) -> list[dict]:
    height, width = SIZE
    listed = []
    for image_id in (1, 2, 3):
        Image.new("RGB", (width, height), (90, 90, 90)).save(tmp_path / f"{image_id}.png")
        path = str(tmp_path / f"{image_id}.png")
        listed.append({"file_name": path, "image_id": image_id, "image_name": f"a b/{image_id}"} | {"height": height})
        listed[-1]["width"] = width
    return listed


def state_at(half: np.ndarray, x: float, y: float) -> int | None:
    """Whose colour the outline nearest to a place of the image has; half = one drawing with its heading."""
    scale = half.shape[1] / SIZE[1]
    heading = half.shape[0] - round(SIZE[0] * scale)
    row, column = heading + int(y * scale), int(x * scale)
    reach = int(1.5 * scale)
    window = half[row - reach : row + reach, column - reach : column + reach].reshape(-1, 3).astype(int)
    near = [int((np.abs(window - color).max(axis=1) < 20).sum()) for color in COLORS]
    return int(np.argmax(near)) if max(near) > 5 else None


def test_every_particle_has_the_colour_of_its_fate(dataset_dicts: list[dict]) -> None:
    drawing = compare_image(outcome(), dataset_dicts[0])
    assert drawing.dtype == np.uint8 and drawing.shape[2] == 3
    middle = drawing.shape[1] // 2
    truth, prediction = drawing[:, : middle - 4], drawing[:, middle + 4 :]
    bottom = 13.0  # lower edge of all particles
    assert [state_at(truth, x + 2, bottom) for x in (0, 20, 40, 60)] == [RIGHT, WRONG_CLASS, ALONE, RIGHT]
    assert state_at(truth, 92, bottom) is None
    assert [state_at(prediction, x + 2, bottom) for x in (0, 20, 60, 90)] == [RIGHT, WRONG_CLASS, RIGHT, ALONE]
    assert state_at(prediction, 42, bottom) is None
    assert state_at(prediction, 112, bottom) is None  # below the threshold
    assert state_at(prediction, 12, 69) is None  # in the crowd region


def test_images_without_anything_are_drawn(dataset_dicts: list[dict]) -> None:
    assert compare_image(outcome(), dataset_dicts[2], 300).shape[1] == 2 * 300 + 8
    compare_image(outcome([], has_mass=False), dataset_dicts[0])


def test_wide_images_stand_one_above_the_other(tmp_path: Path) -> None:
    scene = outcome()
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
    scene = outcome()
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
    store_images(outcome(), dataset_dicts, 2)  # no training: nothing happens
    with EventStorage() as storage:
        store_images(outcome(), dataset_dicts, 0)
        assert not storage._vis_data
        store_images(outcome(), dataset_dicts, 2)
        store_images(outcome(), dataset_dicts[:1], 4)
    assert [name for name, *_ in storage._vis_data] == ["valid/a b/1", "valid/a b/3", "valid/a b/1"]
    assert all(image.shape[0] == 3 and max(image.shape) <= 2000 for _, image, _ in storage._vis_data)
