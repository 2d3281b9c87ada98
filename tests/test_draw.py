"""Particles drawn on images, as arrays and as figures; what captions say, and where they stand."""

from __future__ import annotations

import gc
import math
import weakref

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import ndimage

from ramses_d2.draw import (
    LEGIBLE_SIZE,
    Caption,
    caption_choices,
    class_colors,
    draw_instances,
    particle_caption,
    place_captions,
    plain_number,
    plot_instances,
)

NAMES = ("Ra", "Rb01", "Rc")
LARGE = (800, 1200)  # images of this size are not enlarged


@pytest.fixture
def scene():
    """An image of noise, and three particles: 1 and 2 touch, 3 is missing, 4 touches the corner."""
    image = np.random.randint(40, 200, (*LARGE, 3), np.uint8)
    labels = np.zeros(LARGE, np.uint16)
    labels[200:500, 200:600], labels[200:500, 600:1000], labels[600:, 900:] = 1, 2, 4
    return image, labels


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[:, :, :3]


def plot_pixels(*args, **options):
    return pixels(plot_instances(*args, **options))


BOTH = pytest.mark.parametrize("draw", [draw_instances, plot_pixels])


@BOTH
def test_only_what_is_asked_is_drawn(draw, scene):
    image, labels = scene
    before = image.copy()
    np.testing.assert_array_equal(draw(image, labels, alpha=0, boundaries=False), image)
    draw(image, labels, [0, 1, 2, 0], class_names=NAMES)
    np.testing.assert_array_equal(image, before)  # not drawn on
    changed = (draw(image, labels, alpha=0) != image).any(axis=-1)  # outlines
    assert changed[200:210, 400].any() and changed[490:500, 400].any() and changed[300, 590:610].any()
    assert not changed[210:490, 210:590].any() and not changed[:195].any()


def test_the_tint_is_the_class_colour_at_its_opacity(scene):
    image, labels = scene
    drawn = draw_instances(image, labels, [2, 1, 0, 2], alpha=0.4, boundaries=False)
    colors = np.array(class_colors(3))
    for row, column, class_id in ((220, 220, 2), (220, 980, 1), (790, 1190, 2)):
        np.testing.assert_allclose(drawn[row, column], 0.6 * image[row, column] + 0.4 * colors[class_id], atol=1)
    np.testing.assert_array_equal(drawn[labels == 0], image[labels == 0])


def test_outlines_are_a_coloured_band_inside_a_dark_line(scene):
    drawn = draw_instances(*scene, [0, 1, 2, 0], alpha=0)
    first, second = map(list, class_colors(2))
    assert drawn[202, 400].tolist() == first and drawn[202, 800].tolist() == second
    # Touching particles: colour, dark, colour
    assert drawn[300, 597].tolist() == first and drawn[300, 602].tolist() == second
    assert drawn[300, 599].max() < 40 and drawn[300, 600].max() < 40 and drawn[200, 400].max() < 40


def test_modes_and_own_colours(scene):
    def tints(*args, **options):
        drawn = draw_instances(*scene, *args, boundaries=False, alpha=1, **options)
        return [tuple(drawn[row, column].tolist()) for row, column in ((220, 220), (220, 980), (790, 1190))]

    palette, ids = class_colors(4), [0, 1, 2, 0]
    assert tints(ids) == [palette[0], palette[1], palette[0]]
    assert tints(ids, mode="instance") == [palette[0], palette[1], palette[3]]
    assert tints() == tints(mode="instance")
    own = [(1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12)]
    assert tints(ids, colors=own[:3]) == [own[0], own[1], own[0]]
    assert tints(ids, mode="instance", colors=np.array(own)) == [own[0], own[1], own[3]]
    # Names in the place of class ids are RAMSES2's way
    assert tints(["Rc", "Ra", "Ra", "Rc"]) == tints([1, 0, 0, 1])
    assert len(set(class_colors(300))) == 300
    assert min(class_colors(7)[6]) == int(255 * 0.6) and max(class_colors(13)[12]) == int(255 * 0.75)  # paler, darker
    first = np.array(class_colors(6))
    assert min(np.abs(a - b).max() for i, a in enumerate(first) for b in first[:i]) > 60


@BOTH
def test_captions_stand_inside_their_particles(draw, scene):
    image, labels = scene
    options = {"class_names": NAMES, "alpha": 0, "boundaries": False}
    arguments = ([0, 1, 2, 0], [0.9, 0.8, 0.7, 0.6], [1.0, math.nan, 2.0, 3.0])
    changed = (draw(image, labels, *arguments, **options) != image).any(axis=-1)
    assert not changed[labels == 0].any()
    heights = [np.ptp(np.nonzero(changed & (labels == label))[0]) for label in (1, 2, 4)]
    assert heights[0] > 1.5 * heights[1] > 10  # two lines, and one where the mass is unknown
    assert heights[2] == pytest.approx(heights[0], abs=2)
    large = (draw(image, labels, *arguments, **options, font_size=50) != image).any(axis=-1)
    assert np.ptp(np.nonzero(large & (labels == 1))[0]) > 2 * heights[0]


def test_letters(scene):
    labels = np.ones(LARGE, np.uint16)
    for grey in (0, 128, 255):  # white with a dark rim, on bright and dark stones
        stone = np.full((*LARGE, 3), grey, np.uint8)
        drawn = draw_instances(stone, labels, [0], class_names=["Rb"], alpha=0, boundaries=False)
        assert grey == 255 or (drawn > 240).all(axis=-1).sum() > 20
        assert grey == 0 or (drawn < 40).all(axis=-1).sum() > 40
    accent, plain, unknown = (
        draw_instances(*scene, [0] * 4, class_names=[n]) for n in ("b\u00e9ton", "beton", "b?ton")
    )
    assert (accent != plain).any() and (accent != unknown).any()


@BOTH
def test_small_images_are_enlarged(draw):
    labels = np.zeros((64, 96), np.uint16)
    labels[10:50, 10:80] = 1
    drawn = draw(np.full((64, 96, 3), 90, np.uint8), labels, [0], [0.9], [1.0])
    assert drawn.shape == (64 * 11, 96 * 11, 3) and drawn.dtype == np.uint8


def test_crowded_images_are_enlarged_and_edges_reached():
    labels = np.kron(np.arange(1, 769).reshape(24, 32), np.ones((32, 32), np.uint16)).astype(np.uint16)
    assert draw_instances(np.zeros((768, 1024, 3), np.uint8), labels).shape == (1536, 2048, 3)
    labels = np.zeros((40, 60), np.uint16)
    labels[20:, 30:] = 1
    drawn = draw_instances(np.zeros((40, 60, 3), np.uint8), labels, alpha=1, boundaries=False)
    is_tinted = (drawn == class_colors(1)[0]).all(axis=-1)
    assert is_tinted[-1, -1] and is_tinted[:, -1].mean() == pytest.approx(0.5, abs=0.01)
    labels[:], labels[10:30, 20:40] = 0, 1  # all its corners are rounded alike
    is_tinted = (draw_instances(np.zeros((40, 60), np.uint8), labels, alpha=1, boundaries=False) > 0).any(axis=-1)
    np.testing.assert_array_equal(is_tinted, is_tinted[::-1, ::-1])
    for side, canvas in ((39, 100), (78, 100), (43, 101)):  # the enlargement of the side rounds up
        assert np.ceil(side * (canvas / side)) > canvas
        drawn = draw_instances(np.full((canvas, canvas, 3), 90, np.uint8), np.ones((side, side), np.int32), alpha=0.5)
        assert drawn.shape[0] % canvas == 0 and (drawn[5:-5, 5:-5] != 90).any()


def test_labels_of_the_mask_grid(scene):
    image, labels = scene
    options = {"boundaries": False, "alpha": 1.0, "colors": [(255, 0, 0)] * 4}
    full = draw_instances(image, labels, **options)
    wrong = (draw_instances(image, labels[4::8, 4::8], **options) != full).any(axis=-1)
    assert wrong.mean() < 0.005  # corners are cut
    assert not wrong[208:492, 208:992].any() and not wrong[:196].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [LARGE, (*LARGE, 1), (*LARGE, 3)])
def test_grey_and_float_images(dtype, shape):
    image = np.full(shape, 51 if dtype == np.uint8 else 0.2, dtype)
    drawn = draw_instances(image, np.zeros(LARGE, np.int64), [], [], [])
    assert drawn.dtype == np.uint8 and drawn.shape == (*LARGE, 3) and (drawn == 51).all()


def test_tensors_and_a_dictionary_of_names(scene):
    image, labels = scene
    ids, scores, masses = torch.tensor([0, 1, 2, 0]), torch.rand(4), torch.rand(4, requires_grad=True)
    tensors = (torch.from_numpy(labels.astype(int)), ids, scores, masses)
    drawn = draw_instances(image, *tensors, class_names=dict(enumerate(NAMES)))
    expected = draw_instances(image, labels, ids.tolist(), scores.numpy(), masses.detach().numpy(), class_names=NAMES)
    np.testing.assert_array_equal(drawn, expected)


@BOTH
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [0.5] * 3}, r"class_ids \(4,\), scores \(3,\)"),
        ({"class_ids": [0, 1, 2]}, "entry k - 1"),
        ({"class_ids": [0, 1, 2, 3]}, r"\[3\]"),
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
def test_arguments_that_do_not_fit(draw, changes, message, scene):
    arguments = {"image": scene[0], "labels": scene[1], "class_ids": [0, 1, 2, 0], "class_names": NAMES} | changes
    with pytest.raises(ValueError, match=message):
        draw(**arguments)


# ---- figures


def test_the_figure_has_the_canvas_at_its_pixels(scene):
    for dpi in (72, 97, 117.3):
        figure = plot_instances(*scene, dpi=dpi)
        assert isinstance(figure, Figure) and figure.canvas.get_width_height() == LARGE[::-1]
        np.testing.assert_allclose(figure.get_size_inches() * dpi, LARGE[::-1], atol=0.02)
        np.testing.assert_array_equal(pixels(figure), draw_instances(*scene))
    with pytest.raises(ValueError, match="dpi=0"):
        plot_instances(*scene, dpi=0)


@pytest.mark.parametrize("step", [1, 8])
def test_captions_of_a_figure_are_where_those_of_the_array_are(step, scene):
    labels = scene[1][::step, ::step]  # small images are enlarged
    arguments = (np.full((*labels.shape, 3), 60, np.uint8), labels, [0, 1, 2, 0], [0.9] * 4, [1.0] * 4)
    array, figure = ((draw(*arguments, class_names=NAMES) > 250).all(axis=-1) for draw in (draw_instances, plot_pixels))
    owners = np.kron(labels, np.ones(np.divide(array.shape, labels.shape).astype(int), int))
    for label in (1, 2, 4):
        places = [np.argwhere(mask & (owners == label)) for mask in (array, figure)]
        np.testing.assert_allclose(places[0].min(axis=0), places[1].min(axis=0), atol=3)
        np.testing.assert_allclose(places[0].max(axis=0), places[1].max(axis=0), atol=3)


def test_a_figure_for_notebooks_of_which_pyplot_knows_nothing(scene):
    with matplotlib.rc_context({"image.origin": "lower", "font.size": 30, "savefig.dpi": 50}):
        figure = plot_instances(*scene, [0] * 4, class_names=["$\\bad$"])
    assert plt.get_fignums() == []
    np.testing.assert_array_equal(pixels(figure), plot_pixels(*scene, [0] * 4, class_names=["$\\bad$"]))
    assert {text.get_text() for text in figure.axes[0].texts} == {"$\\bad$"}  # a dollar does not begin a formula
    assert figure._repr_png_().startswith(b"\x89PNG")
    reference = weakref.ref(figure)
    del figure
    gc.collect()
    assert reference() is None


# ---- captions


def place(labels, max_size=20, zoom=1, choices=("Rb01", 0.93, 4.12)):
    boxes = ndimage.find_objects(labels)
    shape = (labels.shape[0] * zoom, labels.shape[1] * zoom)
    return place_captions([caption_choices(*choices)] * len(boxes), labels, boxes, shape, max_size)


def covered(caption, labels, zoom=1):
    labels = labels.repeat(zoom, axis=0).repeat(zoom, axis=1)
    x0, y0, x1, y1 = caption.box()
    assert x0 > -1e-6 and y0 > -1e-6 and x1 < labels.shape[1] + 1e-6 and y1 < labels.shape[0] + 1e-6
    return set(np.unique(labels[int(y0) + 1 : int(y1), int(x0) + 1 : int(x1)]).tolist())


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(12340.4, 4, "12340"), (12345.0, 3, "12300"), (999.9, 3, "1000"), (1.2e7, 3, "12000000"), (0.05, 3, "0.05")]
    + [(0.0000123456, 3, "0.0000123"), (20.0, 3, "20"), (0.0, 3, "0"), (math.nan, 3, "nan")],
)
def test_numbers_are_not_powers_of_ten(value, digits, text):
    assert plain_number(value, digits) == text


def test_what_captions_say():
    assert particle_caption("Rb", 0.934, 4.1234) == ["Rb 0.93", "4.12 g"]
    assert particle_caption("Rb", None, math.nan) == ["Rb"]
    assert particle_caption(None, 0.5, 1234.0) == ["0.50", "1230 g"]
    assert particle_caption(None, None, math.nan) == []
    # The score is given up first, then the grams
    assert caption_choices("Rb", 0.934, 4.1234) == [
        [("Rb 0.93", "4.12 g"), ("Rb", "0.93", "4.12 g")],
        [("Rb", "4.12 g")],
        [("Rb",)],
        [("4.12 g",)],
    ]
    assert caption_choices("red brick", None, math.nan) == [[("red brick",), ("red", "brick")]]
    assert caption_choices(None, None, math.nan) == []


def test_a_caption_stands_in_the_widest_part_of_its_particle():
    labels = np.zeros((200, 300), int)
    labels[20:180, 20:40] = labels[120:180, 20:280] = 1  # an L: its centre of mass is not a good place
    (caption,) = place(labels)
    assert caption.lines == ("Rb01 0.93", "4.12 g") and caption.size == 20
    assert covered(caption, labels) == {1} and caption.y > 120
    assert place(np.eye(200, dtype=int)) == []  # thinner than its letters everywhere, and without room beside it


@pytest.mark.parametrize("zoom", [1, 8])
def test_letters_shrink_to_the_particle_and_lines_are_dropped(zoom):
    contents = []
    for height, width in ((160, 160), (80, 80), (40, 40), (24, 40), (16, 32), (8, 8)):
        labels = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((height // zoom, width // zoom), int))  # touching
        captions = place(labels, max_size=18, zoom=zoom)
        for caption in captions:
            assert LEGIBLE_SIZE <= caption.size <= 18 and len(covered(caption, labels, zoom)) == 1
        assert len(captions) in (0, 12)
        contents.append(captions[0].lines if captions else ())
    tall = ("Rb01", "0.93", "4.12 g")
    assert contents == [("Rb01 0.93", "4.12 g"), tall, tall, ("Rb01", "4.12 g"), ("Rb01",), ()]


def test_a_small_particle_is_named_beside_it_where_nothing_else_is():
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
    assert boxes[2][:2] == pytest.approx((0, 52))  # below its particle, moved into the image
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        for other in boxes[:index]:
            assert x0 >= other[2] or x1 <= other[0] or y0 >= other[3] or y1 <= other[1]


def test_lines_stand_below_each_other_inside_the_box():
    caption = Caption(("Rb", "4.12 g"), 50, 40, 10)
    (first, x, upper), (second, _, lower) = caption.baselines()
    assert (first, second, x) == ("Rb", "4.12 g", 50)
    assert lower - upper == pytest.approx(11)
    x0, y0, x1, y1 = caption.box()
    assert y0 < upper - 7 and lower + 2 < y1 and (x0 + x1, y0 + y1) == pytest.approx((100, 80))
