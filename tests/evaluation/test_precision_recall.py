"""Precision over recall, with the score of each recall."""

from __future__ import annotations

import numpy as np
import pytest

from ramses_d2.evaluation.plots import draw_precision_recall, precision_recall_table
from tests.evaluation.scene import BRICK, GLASS, found, outcome


def test_by_hand() -> None:
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
