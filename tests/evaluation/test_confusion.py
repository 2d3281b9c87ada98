"""The confusion matrix of a scene known by hand."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from ramses_d2.evaluation.plots import confusion_table, draw_confusion
from ramses_d2.evaluation.result import confusion_matrix
from tests.evaluation.scene import CLASSES, outcome

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
