"""Particles drawn on images, as arrays and as figures."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ramses_d2.draw import class_colors, draw_instances, plot_instances

NAMES = ("Ra", "Rb01", "Rc")
LARGE = (800, 1200)  # images of this size are not enlarged


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray]:
    """An image of noise, and three particles: 1 and 2 touch, 3 is missing, 4 touches the corner."""
    image = np.random.randint(40, 200, (*LARGE, 3), np.uint8)
    labels = np.zeros(LARGE, np.uint16)
    labels[200:500, 200:600] = 1
    labels[200:500, 600:1000] = 2
    labels[600:, 900:] = 4
    return image, labels


def pixels(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[:, :, :3]


def plot_pixels(*args: Any, **kwargs: Any) -> np.ndarray:
    return pixels(plot_instances(*args, **kwargs))


BOTH = pytest.mark.parametrize("draw", [draw_instances, plot_pixels])


@BOTH
def test_nothing_asked_nothing_drawn(draw: Callable[..., np.ndarray], scene: tuple[np.ndarray, np.ndarray]) -> None:
    image, labels = scene
    before = image.copy()
    np.testing.assert_array_equal(draw(image, labels, alpha=0, boundaries=False), image)
    draw(image, labels, [0, 1, 2, 0], class_names=NAMES)
    np.testing.assert_array_equal(image, before)  # not drawn on


@BOTH
def test_without_tint_only_outlines_and_letters_change(
    draw: Callable[..., np.ndarray], scene: tuple[np.ndarray, np.ndarray]
) -> None:
    image, labels = scene
    outlined = draw(image, labels, alpha=0)
    changed = (outlined != image).any(axis=-1)
    assert changed[200:210, 400].any() and changed[490:500, 400].any() and changed[300, 590:610].any()
    assert not changed[210:490, 210:590].any() and not changed[:195].any()


def test_the_tint_is_the_class_colour_at_its_opacity(scene: tuple[np.ndarray, np.ndarray]) -> None:
    image, labels = scene
    drawn = draw_instances(image, labels, [2, 1, 0, 2], alpha=0.4, boundaries=False)
    colors = np.array(class_colors(3))
    for row, column, class_id in ((220, 220, 2), (220, 980, 1), (790, 1190, 2)):
        expected = 0.6 * image[row, column] + 0.4 * colors[class_id]
        np.testing.assert_allclose(drawn[row, column], expected, atol=1)
    np.testing.assert_array_equal(drawn[labels == 0], image[labels == 0])


def test_outlines_are_a_coloured_band_inside_a_dark_line(scene: tuple[np.ndarray, np.ndarray]) -> None:
    image, labels = scene
    drawn = draw_instances(image, labels, [0, 1, 2, 0], alpha=0)
    colors = class_colors(3)
    assert drawn[202, 400].tolist() == list(colors[0])
    assert drawn[202, 800].tolist() == list(colors[1])
    # Touching particles: colour, dark, colour
    assert drawn[300, 597].tolist() == list(colors[0]) and drawn[300, 602].tolist() == list(colors[1])
    assert drawn[300, 599].max() < 40 and drawn[300, 600].max() < 40 and drawn[200, 400].max() < 40


def test_modes_and_own_colours(scene: tuple[np.ndarray, np.ndarray]) -> None:
    image, labels = scene

    def tints(**options: Any) -> list[list[int]]:
        drawn = draw_instances(image, labels, boundaries=False, alpha=1, **options)
        return [drawn[row, column].tolist() for row, column in ((220, 220), (220, 980), (790, 1190))]

    palette = [list(color) for color in class_colors(4)]
    ids = {"class_ids": [0, 1, 2, 0]}
    assert tints(**ids) == [palette[0], palette[1], palette[0]]
    assert tints(**ids, mode="instance") == [palette[0], palette[1], palette[3]]
    assert tints() == tints(mode="instance")
    own = [(1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12)]
    assert tints(**ids, colors=own[:3]) == [[1, 2, 3], [4, 5, 6], [1, 2, 3]]
    assert tints(**ids, mode="instance", colors=np.array(own)) == [[1, 2, 3], [4, 5, 6], [10, 11, 12]]


@BOTH
def test_captions_stand_inside_their_particles(
    draw: Callable[..., np.ndarray], scene: tuple[np.ndarray, np.ndarray]
) -> None:
    image, labels = scene
    bare = draw(image, labels, alpha=0, boundaries=False)
    arguments = ([0, 1, 2, 0], [0.9, 0.8, 0.7, 0.6], [1.0, math.nan, 2.0, 3.0])
    changed = (draw(image, labels, *arguments, class_names=NAMES, alpha=0, boundaries=False) != bare).any(axis=-1)
    assert not changed[labels == 0].any()
    heights = [np.ptp(np.nonzero(changed & (labels == label))[0]) for label in (1, 2, 4)]
    assert heights[0] > 1.5 * heights[1] > 10  # two lines, and one where the mass is unknown
    assert heights[2] == pytest.approx(heights[0], abs=2)
    large = draw(image, labels, *arguments, class_names=NAMES, alpha=0, boundaries=False, font_size=50)
    assert np.ptp(np.nonzero((large != bare).any(axis=-1) & (labels == 1))[0]) > 2 * heights[0]


def test_white_letters_with_a_dark_rim_on_bright_and_dark_stones() -> None:
    labels = np.ones(LARGE, np.uint16)
    for grey in (0, 128, 255):
        drawn = draw_instances(
            np.full((*LARGE, 3), grey, np.uint8), labels, [0], class_names=["Rb"], alpha=0, boundaries=False
        )
        letters, rim = (drawn > 240).all(axis=-1), (drawn < 40).all(axis=-1)
        assert grey == 255 or letters.sum() > 20
        assert grey == 0 or rim.sum() > 40


def test_a_name_with_accents_is_written_with_them(scene: tuple[np.ndarray, np.ndarray]) -> None:
    image, labels = scene
    with_accent, without, unknown = (
        draw_instances(image, labels, [0] * 4, class_names=[name]) for name in ("béton", "beton", "b?ton")
    )
    assert (with_accent != without).any() and (with_accent != unknown).any()


@BOTH
def test_a_small_image_is_enlarged(draw: Callable[..., np.ndarray]) -> None:
    labels = np.zeros((64, 96), np.uint16)
    labels[10:50, 10:80] = 1
    drawn = draw(np.full((64, 96, 3), 90, np.uint8), labels, [0], [0.9], [1.0])
    assert drawn.shape == (64 * 11, 96 * 11, 3) and drawn.dtype == np.uint8


def test_a_crowded_image_is_enlarged_too() -> None:
    labels = np.kron(np.arange(1, 769).reshape(24, 32), np.ones((32, 32), np.uint16)).astype(np.uint16)
    drawn = draw_instances(np.zeros((768, 1024, 3), np.uint8), labels)
    assert drawn.shape == (1536, 2048, 3)


def test_labels_of_the_mask_grid(scene: tuple[np.ndarray, np.ndarray]) -> None:
    image, labels = scene
    options = {"boundaries": False, "alpha": 1.0, "colors": [(255, 0, 0)] * 4}
    full = draw_instances(image, labels, **options)
    grid = draw_instances(image, labels[4::8, 4::8], **options)
    wrong = (grid != full).any(axis=-1)
    assert wrong.mean() < 0.005  # corners are cut
    assert not wrong[208:492, 208:992].any() and not wrong[:196].any()


def test_a_particle_at_the_edge_reaches_it_on_an_enlarged_canvas() -> None:
    labels = np.zeros((40, 60), np.uint16)
    labels[20:, 30:] = 1
    drawn = draw_instances(np.zeros((40, 60, 3), np.uint8), labels, alpha=1, boundaries=False)
    assert (drawn[-1, -1] == class_colors(1)[0]).all()
    assert (drawn[:, -1] == class_colors(1)[0]).all(axis=-1).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [LARGE, (*LARGE, 1), (*LARGE, 3)])
def test_grey_and_float_images(dtype: type, shape: tuple[int, ...]) -> None:
    image = np.full(shape, 51 if dtype == np.uint8 else 0.2, dtype)
    drawn = draw_instances(image, np.zeros(LARGE, np.int64), [], [], [])
    assert drawn.dtype == np.uint8 and drawn.shape == (*LARGE, 3) and (drawn == 51).all()


def test_tensors_and_a_dictionary_of_names(scene: tuple[np.ndarray, np.ndarray]) -> None:
    image, labels = scene
    ids, scores, masses = torch.tensor([0, 1, 2, 0]), torch.rand(4), torch.rand(4, requires_grad=True)
    drawn = draw_instances(
        image, torch.from_numpy(labels.astype(int)), ids, scores, masses, class_names=dict(enumerate(NAMES))
    )
    expected = draw_instances(image, labels, ids.tolist(), scores.numpy(), masses.detach().numpy(), class_names=NAMES)
    np.testing.assert_array_equal(drawn, expected)


def test_colours_of_300_classes_are_distinct() -> None:
    assert len(set(class_colors(300))) == 300
    first = np.array(class_colors(6))
    assert min(np.abs(a - b).max() for i, a in enumerate(first) for b in first[:i]) > 60


@BOTH
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [0.5] * 3}, r"class_ids \(4,\), scores \(3,\)"),
        ({"class_ids": [0, 1, 2]}, "label k needs entry k - 1"),
        ({"class_ids": [0, 1, 2, 3]}, r"\[3\] have no name"),
        ({"class_ids": [0, 1, 2, -1], "class_names": None}, "start at 0"),
        ({"masses": np.ones((4, 1))}, "one value per particle"),
        ({"mode": "classes"}, '"class" or "instance"'),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"font_size": 0}, "font_size"),
        ({"colors": [(0, 0, 0)]}, "1 colors, but 3"),
        ({"colors": [(0.1, 0.2, 0.3)] * 3}, "whole numbers"),
        ({"labels": np.zeros(LARGE)}, "integer"),
        ({"labels": np.zeros((4, *LARGE), bool)}, "decode_predictions"),
        ({"labels": np.zeros(LARGE[::-1], int)}, "same view"),
        ({"image": np.zeros((*LARGE, 4), np.uint8)}, "RGB"),
        ({"image": np.full(LARGE, 2.0)}, "from 0 to 1"),
        ({"image": np.full(LARGE, np.nan)}, "from 0 to 1"),
        ({"image": np.zeros(LARGE, np.uint16)}, "uint16"),
    ],
)
def test_arguments_that_do_not_fit(
    draw: Callable[..., np.ndarray], changes: dict[str, Any], message: str, scene: tuple[np.ndarray, np.ndarray]
) -> None:
    image, labels = scene
    arguments = {"image": image, "labels": labels, "class_ids": [0, 1, 2, 0], "class_names": NAMES} | changes
    with pytest.raises(ValueError, match=message):
        draw(**arguments)


def test_the_figure_has_the_canvas_at_its_pixels(scene: tuple[np.ndarray, np.ndarray]) -> None:
    image, labels = scene
    for dpi in (72, 97, 117.3):
        figure = plot_instances(image, labels, dpi=dpi)
        assert type(figure).__mro__[1] is Figure and figure.canvas.get_width_height() == LARGE[::-1]
        np.testing.assert_allclose(figure.get_size_inches() * dpi, LARGE[::-1], atol=0.02)
        np.testing.assert_array_equal(pixels(figure), draw_instances(image, labels))


@pytest.mark.parametrize("step", [1, 8])
def test_captions_of_a_figure_are_where_those_of_the_array_are(step: int, scene: tuple[np.ndarray, np.ndarray]) -> None:
    labels = scene[1][::step, ::step]  # small images are enlarged
    arguments = (np.full((*labels.shape, 3), 60, np.uint8), labels, [0, 1, 2, 0], [0.9] * 4, [1.0] * 4)
    array, figure = ((draw(*arguments, class_names=NAMES) > 250).all(axis=-1) for draw in (draw_instances, plot_pixels))
    owners = np.kron(labels, np.ones(np.divide(array.shape, labels.shape).astype(int), int))
    for label in (1, 2, 4):
        places = [np.argwhere(mask & (owners == label)) for mask in (array, figure)]
        np.testing.assert_allclose(places[0].min(axis=0), places[1].min(axis=0), atol=3)
        np.testing.assert_allclose(places[0].max(axis=0), places[1].max(axis=0), atol=3)


def test_a_notebook_shows_the_figure(scene: tuple[np.ndarray, np.ndarray]) -> None:
    assert plot_instances(*scene)._repr_png_().startswith(b"\x89PNG")


def test_a_dollar_is_no_formula(scene: tuple[np.ndarray, np.ndarray]) -> None:
    figure = plot_instances(*scene, [0] * 4, class_names=["$\\bad$"])
    pixels(figure)
    assert {text.get_text() for text in figure.axes[0].texts} == {"$\\bad$"}


def test_no_figure_is_left_with_pyplot(scene: tuple[np.ndarray, np.ndarray]) -> None:
    with matplotlib.rc_context({"image.origin": "lower", "font.size": 30, "savefig.dpi": 50}):
        figure = plot_instances(*scene, [0] * 4)
    assert plt.get_fignums() == []
    np.testing.assert_array_equal(pixels(figure), plot_pixels(*scene, [0] * 4))  # and nobody's settings in it
    reference = weakref.ref(figure)
    del figure
    gc.collect()
    assert reference() is None


def test_names_in_the_place_of_class_ids_are_ramses2s_way() -> None:
    labels = np.zeros((60, 90), np.uint8)
    labels[5:55, 5:40], labels[5:55, 50:85] = 1, 2
    image = np.full((60, 90, 3), 128, np.uint8)
    by_name = draw_instances(image, labels, ["Rc", "Ra"])
    by_id = draw_instances(image, labels, [1, 0], class_names=["Ra", "Rc"])
    np.testing.assert_array_equal(by_name, by_id)


@pytest.mark.parametrize(("side", "canvas"), [(39, 100), (78, 100), (43, 101)])
def test_a_particle_at_the_edge_whose_enlargement_rounds_up(side: int, canvas: int) -> None:
    assert np.ceil(side * (canvas / side)) > canvas
    drawn = draw_instances(np.full((canvas, canvas, 3), 90, np.uint8), np.ones((side, side), np.int32), alpha=0.5)
    assert drawn.shape[0] % canvas == 0 and (drawn[5:-5, 5:-5] != 90).any()
