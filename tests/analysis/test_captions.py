"""What captions say, and where they stand: inside their particle or on free ground, legible, apart from each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from ramses_d2.draw import LEGIBLE_SIZE, Caption, caption_choices, particle_caption, place_captions


def place(labels: np.ndarray, max_size: float = 20, zoom: int = 1, **particle: object) -> list[Caption]:
    boxes = ndimage.find_objects(labels)
    settings = {"class_name": "Rb01", "score": 0.93, "mass": 4.12} | particle
    shape = (labels.shape[0] * zoom, labels.shape[1] * zoom)
    return place_captions([caption_choices(**settings)] * len(boxes), labels, boxes, shape, max_size)


def covered(caption: Caption, labels: np.ndarray, zoom: int = 1) -> set[int]:
    labels = labels.repeat(zoom, axis=0).repeat(zoom, axis=1)
    x0, y0, x1, y1 = caption.box()
    assert x0 > -1e-6 and y0 > -1e-6 and x1 < labels.shape[1] + 1e-6 and y1 < labels.shape[0] + 1e-6
    return set(np.unique(labels[int(y0) + 1 : int(y1), int(x0) + 1 : int(x1)]).tolist())


def packed(rows: int, columns: int, height: int, width: int) -> np.ndarray:
    """Touching rectangles, each a particle."""
    return np.kron(np.arange(1, rows * columns + 1).reshape(rows, columns), np.ones((height, width), int))


def test_caption() -> None:
    assert particle_caption("Rb", 0.934, 4.1234) == ["Rb 0.93", "4.12 g"]
    assert particle_caption("Rb", None, math.nan) == ["Rb"]
    assert particle_caption(None, 0.5, 1.0) == ["0.50", "1 g"]
    assert particle_caption(None, None, math.nan) == []


def test_the_score_is_given_up_first_then_the_grams() -> None:
    assert caption_choices("Rb", 0.934, 4.1234) == [
        [("Rb 0.93", "4.12 g"), ("Rb", "0.93", "4.12 g")],
        [("Rb", "4.12 g")],
        [("Rb",)],
        [("4.12 g",)],
    ]
    assert caption_choices("red brick", None, math.nan) == [[("red brick",), ("red", "brick")]]
    assert caption_choices(None, None, math.nan) == []


def test_a_caption_stands_in_the_widest_part_of_its_particle() -> None:
    labels = np.zeros((200, 300), int)
    labels[20:180, 20:40] = labels[120:180, 20:280] = 1  # an L: its centre of mass is no good place
    (caption,) = place(labels)
    assert caption.lines == ("Rb01 0.93", "4.12 g") and caption.size == 20
    assert covered(caption, labels) == {1}
    assert caption.y > 120


@pytest.mark.parametrize("zoom", [1, 8])
def test_letters_shrink_to_the_particle_and_lines_are_dropped(zoom: int) -> None:
    contents = []
    for height, width in ((160, 160), (80, 80), (40, 40), (24, 40), (16, 32), (8, 8)):
        labels = packed(3, 4, height // zoom, width // zoom)
        captions = place(labels, max_size=18, zoom=zoom)
        for caption in captions:
            assert LEGIBLE_SIZE <= caption.size <= 18
            assert len(covered(caption, labels, zoom)) == 1
        assert len(captions) in (0, 12)
        contents.append(captions[0].lines if captions else ())
    tall = ("Rb01", "0.93", "4.12 g")
    assert contents == [("Rb01 0.93", "4.12 g"), tall, tall, ("Rb01", "4.12 g"), ("Rb01",), ()]


def test_a_small_particle_is_named_beside_it_where_nothing_else_is() -> None:
    labels = np.zeros((100, 500), int)
    labels[40:52, 486:498] = 1  # no room to the right
    labels[40:52, 400:412] = 2  # nor here, where the caption of 1 is
    labels[40:52, 2:14] = 3
    labels[41:51, 14:150] = 4  # in the way of 3
    captions = place(labels)
    assert [caption.lines for caption in captions] == [("Rb01 0.93", "4.12 g")] * 4
    for number, caption in enumerate(captions, start=1):
        assert covered(caption, labels) <= {0, number}
    boxes = [caption.box() for caption in captions]
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        for other in boxes[:index]:
            assert x0 >= other[2] or x1 <= other[0] or y0 >= other[3] or y1 <= other[1]


def test_lines_stand_below_each_other_inside_the_box() -> None:
    caption = Caption(("Rb", "4.12 g"), 50, 40, 10)
    (first, x, upper), (second, _, lower) = caption.baselines()
    assert (first, second, x) == ("Rb", "4.12 g", 50)
    assert lower - upper == pytest.approx(11)
    x0, y0, x1, y1 = caption.box()
    assert y0 < upper - 7 and lower + 2 < y1 and (x0 + x1, y0 + y1) == pytest.approx((100, 80))


def test_grams_are_no_powers_of_ten() -> None:
    assert particle_caption(None, None, 1234.0) == ["1230 g"]
    assert particle_caption(None, None, 999.9) == ["1000 g"]
    assert particle_caption(None, None, 0.01234) == ["0.0123 g"]
