"""Belts cut into frames: ground truth in, every particle out exactly once, whole, with its grams."""

from __future__ import annotations

import tracemalloc
import weakref
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from ramses_d2.analysis.particles import handle_fragments
from ramses_d2.analysis.stream.belt import (
    BeltOrientation,
    ParticleStream,
    StreamParticle,
    find_gaps,
    frame_numbers,
    natural_order,
    stream_particles,
)
from ramses_d2.analysis.stream.stitch import FrameInstances
from ramses_d2.data.synthetic import SceneConfig, write_belt
from ramses_d2.errors import RamsesError
from tests.analysis.stream.belts import Belt, cut, frames_of, instances, make_belt, paint

ORIENTATIONS = list(product(("rows", "columns"), ("forward", "backward")))


def test_natural_order() -> None:
    ordered = ["3.png", "F1.png", "f2.jpg", "f2.png", "f10.png"]
    assert natural_order(["f10.png", "f2.png", "F1.png", "f2.jpg", "3.png"]) == ordered
    paths = [Path("run2/a1"), Path("run10/a1"), Path("run2/a0")]
    assert natural_order(paths) == [Path("run2/a0"), Path("run2/a1"), Path("run10/a1")]


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["belt_0001.jpg", "belt_0002.jpg"], [1, 2]),
        (["cam2_10.jpg", "cam2_9.jpg"], [10, 9]),  # the 2 is the same everywhere
        (["2024-05-01_17_belt7.jpg", "2024-05-01_18_belt7.jpg"], [17, 18]),
        (["20240501_101112.jpg", "20240501_101119.jpg", "20240501_101133.jpg", "20240501_101150.jpg"], None),  # times
        (["f_0001_100", "f_0002_101", "f_0003_104", "f_0005_110"], [1, 2, 3, 5]),  # a time behind the counter
        (["f_0000_100", "f_0001_101", "f_0002_103", "f_0003_104", "f_0004_105"], [0, 1, 2, 3, 4]),
        (["100_f1", "102_f2", "104_f3"], [1, 2, 3]),  # both are regular: the smaller step
        (["1_1", "2_2", "3_3"], [1, 2, 3]),
        (["17_101112", "18_101119"], [17, 18]),  # of two names the smaller change
        (["a1.jpg", "b2.jpg"], None),
        (["left.jpg", "right.jpg"], None),
        (["f1.jpg"], None),
        ([], None),
        (["f1.jpg", "f1.png"], None),
    ],
)
def test_frame_numbers(names: list[str], numbers: list[int] | None) -> None:
    assert frame_numbers(names) == numbers


TIMED = [f"frame_{number:04d}_{time}" for number, time in enumerate([100, 101, 103, 104, 105, 107, 108, 109])]


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        (range(95, 105), []),
        (range(40, 0, -4), []),
        (["left.jpg", "right.jpg"], []),
        ([1, 2, 4, 5], [(2, 1)]),
        ([1, 5], [(1, 3)]),
        ([1, 2, 4], [(2, 1)]),  # of equally frequent steps the smaller one is usual
        ([10, 20, 30, 60, 70], [(3, 2)]),
        ([9, 8, 6, 5], [(2, 1)]),
        ([1, 2, 2, 3, 4], [(2, None)]),
        ([7, 8, 9, 1, 2, 3, 7], [(3, None), (6, 3)]),
        ([2, 4, 6, 9, 11], [(3, None)]),
        (TIMED, []),  # a time behind the counter neither makes a gap
        (TIMED[:4] + TIMED[5:], [(4, 1)]),  # nor hides one
        (["frame_0001_100", "frame_0002_101", "frame_0003_104", "frame_0005_110"], [(3, 1)]),
    ],
)
def test_gaps(frames: list, found: list[tuple[int, int | None]]) -> None:
    gaps = find_gaps([one if isinstance(one, str) else f"run3/f{one:03d}.jpg" for one in frames])
    assert [(gap.index, gap.missing) for gap in gaps] == found


def test_messages_of_gaps() -> None:
    one, two = find_gaps([Path("x/f1.jpg"), Path("x/f2.jpg"), Path("x/f4.jpg"), Path("x/f5.jpg"), Path("x/f3.jpg")])
    assert one.message == "1 frame is missing between f2.jpg and f4.jpg"
    assert all(word in two.message for word in ("f3.jpg", "f5.jpg", "+1", "-2"))
    (three,) = find_gaps(["f1", "f2", "f3", "f7"])
    assert three.message == "3 frames are missing between f3 and f7"


def assert_every_particle_once(found: list[StreamParticle], belt: Belt, orientation: BeltOrientation) -> None:
    """Same pixels, grams, class and score as the belt's own particles."""
    painted = np.zeros_like(belt.labels)
    for particle in found:
        box = slice(*particle.belt_rows), slice(*particle.belt_columns)
        mask = orientation.to_belt(particle.mask)
        (label,) = np.unique(belt.labels[box][mask])
        assert not painted[box][mask].any()
        painted[box][mask] = label
        assert particle.mass == pytest.approx(belt.masses[label], rel=1e-9)
        assert particle.class_id == belt.classes[label]
        assert particle.score == pytest.approx(belt.scores[label])
        assert mask.any(axis=0).all() or mask.any(axis=1)[[0, -1]].all()
    assert np.array_equal(painted, belt.labels)
    assert len(found) == np.count_nonzero(belt.areas[1:])
    assert sum(particle.mass for particle in found) == pytest.approx(belt.masses.sum(), rel=1e-6)


def whole(belt: Belt, frames: Any, **settings: Any) -> list[StreamParticle]:
    """The particles of a belt from its frames, each checked to be there once."""
    found = list(stream_particles(frames, belt.predict, **settings))
    orientation = BeltOrientation(settings.get("axis", "rows"), settings.get("direction", "forward"))
    assert_every_particle_once(found, belt, orientation)
    return found


@pytest.mark.parametrize("overlap", [0, 23])
def test_five_thousand_particles_in_frames_of_arbitrary_heights(overlap: int) -> None:
    belt = make_belt(5000, 2400, 1000, long=15)
    assert np.count_nonzero(belt.areas[1:]) == 5000
    frames = cut(2400, (40, 200), overlap)
    longest = max(box[0].stop - box[0].start for box in ndimage.find_objects(belt.labels) if box)
    assert longest > 3 * np.mean([rows.stop - rows.start for rows in frames])  # spans three frames and more
    whole(belt, (belt.labels[rows].copy() for rows in frames), overlap=overlap)


@pytest.mark.parametrize(("axis", "direction"), ORIENTATIONS)
@pytest.mark.parametrize(("overlap", "settings"), [(0, {}), (11, {"tail": 1, "margin": 0}), (0, {"window": 37})])
def test_axes_and_directions(axis: str, direction: str, overlap: int, settings: dict) -> None:
    belt, orientation = make_belt(300, 700, 220, long=4), BeltOrientation(axis, direction)
    images = [orientation.to_image(belt.labels[rows]).copy() for rows in cut(700, (25, 110), overlap)]
    for particle in whole(belt, images, axis=axis, direction=direction, overlap=overlap, **settings):
        image, mask = images[particle.frame], orientation.to_belt(particle.mask)
        label = belt.labels[slice(*particle.belt_rows), slice(*particle.belt_columns)][mask][0]
        x0, y0, x1, y1 = particle.box
        assert particle.mask.shape == (y1 - y0, x1 - x0)
        shown = particle.mask[max(-y0, 0) : image.shape[0] - y0, max(-x0, 0) : image.shape[1] - x0]
        assert shown.any()  # it starts in this frame
        assert np.array_equal(image[max(y0, 0) : y1, max(x0, 0) : x1] == label, shown)


@pytest.mark.parametrize(("axis", "direction"), ORIENTATIONS)
def test_the_network_sees_images_as_the_camera_took_them(axis: str, direction: str) -> None:
    """A network may know where the light comes from, so a window must not be turned or mirrored, and not be changed."""
    rows, columns = np.indices((90, 120))
    scene, windows = rows * 1000 + columns, []
    frames = np.split(scene[:, :40], 3) if axis == "rows" else np.split(scene[:30], 3, axis=1)

    def predict(image: np.ndarray) -> FrameInstances:
        assert not image.flags.writeable
        windows.append(image.copy())
        return instances([])

    ordered = frames if direction == "forward" else frames[::-1]
    list(stream_particles(ordered, predict, axis=axis, direction=direction, tail=9))
    assert len(windows) == 4  # the belt is 3 frames long, and windows share 9 px at the least
    for window in windows:
        assert window.shape == ((30, 40))
        assert (np.diff(window, axis=0) == 1000).all() and (np.diff(window, axis=1) == 1).all()


@pytest.mark.parametrize("height", [12, 20, 33])
def test_empty_frames_between_particles(height: int) -> None:
    """The belt runs empty for frames on end, and a particle ends or begins exactly at a seam."""
    belt = paint((200, 30), (3, 20, 2, 9), (20, 33, 2, 9), (33, 40, 10, 20), (150, 180, 4, 8), (197, 200, 0, 30))
    whole(belt, frames_of(belt, height))


@pytest.mark.parametrize(
    ("axis", "direction", "names"),
    [
        ("rows", "forward", ("top", "bottom", "left", "right")),
        ("rows", "backward", ("bottom", "top", "left", "right")),
        ("columns", "forward", ("left", "right", "top", "bottom")),
        ("columns", "backward", ("right", "left", "top", "bottom")),
    ],
)
def test_ends_and_sides_of_the_belt(axis: str, direction: str, names: tuple[str, ...]) -> None:
    belt = paint((60, 40), (0, 9, 12, 19), (50, 60, 10, 20), (30, 38, 0, 4), (30, 38, 36, 40), (5, 28, 20, 30))
    images = [BeltOrientation(axis, direction).to_image(frame) for frame in frames_of(belt, 20)]
    found = list(stream_particles(images, belt.predict, axis=axis, direction=direction))
    edges = {label: (label <= 2, (name,)) for label, name in enumerate(names, start=1)} | {5: (False, ())}
    assert {particle.class_id: (particle.cut, particle.edges) for particle in found} == edges
    inner = list(stream_particles(images, belt.predict, axis=axis, direction=direction, keep_cut=False))
    assert [p.class_id for p in inner] == [p.class_id for p in found if not p.cut]


def test_a_single_frame_and_none() -> None:
    belt = paint((40, 40), (0, 9, 2, 9), (15, 22, 20, 30), (30, 38, 10, 20), (33, 40, 30, 35))
    found = list(stream_particles([belt.labels], belt.predict))
    assert {p.class_id: p.cut for p in found} == {1: True, 2: False, 3: False, 4: True}
    assert list(stream_particles([], belt.predict)) == [] == ParticleStream(belt.predict).cut()
    empty = paint((50, 30))
    assert list(stream_particles(frames_of(empty, 10), empty.predict)) == []


def test_missing_frames_cut_the_belt() -> None:
    belt = paint((60, 40), (2, 9, 2, 9), (15, 26, 20, 30), (33, 47, 5, 15))
    first, second, third = frames_of(belt, 20)
    found = list(stream_particles([first, None, second, third], belt.predict))
    pieces = [(1, (2, 9), 0, False, 49), (2, (15, 20), 0, True, 50), (2, (20, 26), 1, True, 60)]
    pieces.append((3, (33, 47), 1, False, 140))
    assert sorted((p.class_id, p.belt_rows, p.frame, p.cut, p.mass) for p in found) == pieces
    assert [p.class_id for p in stream_particles([first, None, second, third], belt.predict, keep_cut=False)] == [1, 3]


def test_overlap_is_not_expected_behind_a_gap() -> None:
    belt = paint((60, 40), (2, 9, 2, 9), (31, 35, 5, 15))
    frames = [belt.labels[0:20], belt.labels[15:30], None, belt.labels[30:50]]
    found = [(p.class_id, p.belt_rows, p.frame, p.box) for p in stream_particles(frames, belt.predict, overlap=5)]
    assert found == [(1, (2, 9), 0, (2, 2, 9, 9)), (2, (31, 35), 2, (5, 1, 15, 5))]


def test_particles_come_as_soon_as_they_are_complete() -> None:
    """One image at a time: what ends in a frame is known when the next one has been seen."""
    belt = make_belt(300, 700, 220)
    ends = np.array([box[0].stop for box in ndimage.find_objects(belt.labels) if box])
    stream, height, known, settled = ParticleStream(belt.predict), 70, 0, 0
    for number, frame in enumerate(frames_of(belt, height)):
        found = stream.push(frame)
        known += len(found)
        assert known >= (ends <= number * height).sum()
        assert min(particle.belt_rows[0] for particle in found) >= settled
        assert settled <= stream.settled_row <= (number + 1) * height
        settled = stream.settled_row
    assert settled > 500
    assert known + len(stream.cut()) == len(ends)


def test_settled_row_waits_for_a_long_particle() -> None:
    belt = paint((200, 30), (15, 150, 3, 6))
    stream = ParticleStream(belt.predict)
    steps = [(len(stream.push(frame)), stream.settled_row) for frame in frames_of(belt, 20)]
    assert max(settled for _, settled in steps[:7]) <= 15 and steps[-1][1] > 160
    assert sum(found for found, _ in steps) == 1


def test_settled_row_waits_for_what_the_last_window_may_find() -> None:
    """The last window begins above the announced row, to be as large as the others."""
    windows = iter([instances([]), instances([]), instances([[3, 5, 9, 20]])])
    stream = ParticleStream(lambda image: next(windows))
    assert [stream.push(np.zeros((20, 30))) for _ in range(2)] == [[], []]
    settled = stream.settled_row
    (particle,) = stream.cut()
    assert particle.belt_rows == (25, 40) and settled <= 25


def test_settled_row_behind_a_gap() -> None:
    stream = ParticleStream(lambda image: instances([]))
    for step, settled in ((30, None), (30, None), ("cut", 60), (10, 60), ("cut", 70)):
        assert (stream.cut() if step == "cut" else stream.push(np.zeros((step, 20)))) == []
        assert settled is None or stream.settled_row == settled


@pytest.mark.parametrize(("axis", "direction"), ORIENTATIONS)
def test_a_short_frame_between_gaps_is_seen_in_a_window_of_the_usual_size(axis: str, direction: str) -> None:
    """The rows above it are those before the gap: what lies there counts once, and a gap cuts what reaches over it."""
    belt = paint((72, 40), (5, 15, 2, 9), (34, 46, 20, 30), (44, 50, 2, 9), (39, 41, 12, 16), (30, 41, 32, 36))
    orientation, heights = BeltOrientation(axis, direction), []

    def predict(image: np.ndarray) -> FrameInstances:
        heights.append(len(orientation.to_belt(image)))
        return belt.predict(image)

    cuts = [slice(0, 20), slice(20, 40), None, slice(40, 52), None, slice(52, 72)]
    frames = [rows and orientation.to_image(belt.labels[rows]) for rows in cuts]
    found = list(stream_particles(frames, predict, axis=axis, direction=direction))
    assert set(heights) == {20}
    assert sorted((p.class_id, p.belt_rows, p.frame, p.cut, p.mass) for p in found) == [
        (1, (5, 15), 0, False, 70),
        (2, (34, 40), 1, True, 60),
        (2, (40, 46), 2, True, 60),
        (3, (44, 50), 2, False, 42),
        (4, (39, 40), 1, True, 4),
        (4, (40, 41), 2, True, 4),
        (5, (30, 40), 1, True, 40),  # one more row than it should have: no particle behind the gap
    ]


def test_a_stray_pixel_at_the_end_of_the_belt_cuts_nothing_once_it_is_cleaned() -> None:
    belt = paint((60, 40), (20, 40, 2, 12))
    belt.labels[59, 5] = 1
    belt.areas[1] += 1
    (particle,) = stream_particles([belt.labels], belt.predict)
    assert particle.cut and list(stream_particles([belt.labels], belt.predict, keep_cut=False)) == []
    (clean,) = stream_particles([belt.labels], belt.predict, keep_cut=False, clean=handle_fragments)
    assert not clean.cut and clean.edges == () and clean.belt_rows == (20, 40)


def test_two_frames_of_pixels_at_the_most() -> None:
    shape, alive, held, pixels = (400, 500, 3), [], [], []

    def photograph() -> np.ndarray:
        frame = np.zeros(shape, np.uint8)
        alive.append(weakref.ref(frame))
        return frame

    def predict(image: np.ndarray) -> FrameInstances:
        held.append(sum(reference() is not None for reference in alive))
        pixels.append(tracemalloc.get_traced_memory()[0] / np.prod(shape))
        return instances([[20, 300, 80, 400]])  # the end of the window cuts it: the next one begins with it

    tracemalloc.start()
    found = list(stream_particles((photograph() for _ in range(12)), predict))
    tracemalloc.stop()
    assert len(found) > 0
    assert max(held) == 0  # the pixels are in the stream's own memory
    assert max(pixels) < 2.1  # frames' worth, with the masks


@pytest.mark.parametrize(
    ("rows", "settings", "top"),
    [
        (None, {}, 80 - 21),  # two margins of an eighth, and one row
        ((20, 50), {}, 80 - 30),  # the length of the longest whole particle
        ((20, 69), {}, 80 - 40),  # half a window at the most
        ((60, 80), {}, 60 - 10),  # a margin above what is cut
        ((30, 70), {}, 30 - 10),  # which is what ends within a margin
        ((11, 80), {}, 1),
        ((10, 80), {}, 80 - 21),  # longer than a window without its margins
        ((60, 80), {"margin": 40}, 60 - 20),  # a quarter at the most
        (None, {"tail": 30}, 80 - 30),
        (None, {"tail": 75}, 10),  # seven eighths at the most
    ],
)
def test_where_the_next_window_begins(rows: tuple[int, int] | None, settings: dict[str, int], top: int) -> None:
    tops, found = [], instances([] if rows is None else [[3, rows[0], 9, rows[1]]])
    stream = ParticleStream(lambda image: tops.append(int(image[0, 0])) or found, **settings)
    for first in (0, 80):
        stream.push(np.repeat(np.arange(first, first + 80)[:, None], 30, axis=1))
    assert tops[:2] == [0, top]


@pytest.mark.parametrize("long", [0, 4])
def test_windows_keep_the_size_of_a_frame(long: int) -> None:
    """A network sees particles at another scale in an image of another height."""
    belt, heights = make_belt(300, 700, 220, long=long), []

    def predict(image: np.ndarray) -> FrameInstances:
        heights.append(len(image))
        return belt.predict(image)

    assert_every_particle_once(list(stream_particles(frames_of(belt, 90), predict)), belt, BeltOrientation())
    assert set(heights) == {90}
    assert len(heights) <= 2 * len(list(frames_of(belt, 90)))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"axis": "row"}, "'row'.*rows, columns"),
        ({"direction": "up"}, "'up'.*forward, backward"),
        ({"overlap": -1}, "overlap of -1 px.* 0 "),
        ({"window": 0}, "window of 0 px.* 1 "),
        ({"margin": -1}, "margin of -1 px.* 0 "),
        ({"tail": 0}, "tail of 0 px.* 1 "),
        ({"overlap": 20}, "frame 2 .* overlap by 20 px"),
    ],
)
def test_wrong_settings(settings: dict, named: str) -> None:
    belt = paint((60, 40), (2, 9, 2, 9))
    with pytest.raises(RamsesError, match=named):
        list(stream_particles(frames_of(belt, 20), belt.predict, **settings))


@pytest.mark.parametrize("second", [np.zeros((20, 41), int), np.zeros((20, 40), np.uint8), np.zeros((20, 40, 1), int)])
def test_frames_must_fit_each_other(second: np.ndarray) -> None:
    with pytest.raises(RamsesError, match="same width"):
        list(stream_particles([np.zeros((20, 40), int), second], paint((60, 40)).predict))


@pytest.mark.parametrize("box", [[0, 0, 10, 21], [0, 0, 41, 10], [-1, 0, 10, 10]])
def test_a_box_outside_its_image(box: list[int]) -> None:
    with pytest.raises(ValueError, match="box outside"):
        list(stream_particles([np.zeros((20, 40), int)], lambda image: instances([box])))


def test_loose_boxes_are_tightened() -> None:
    mask = np.zeros((8, 9), bool)
    mask[2:5, 3:7] = True
    found = FrameInstances([mask, mask & False], [[10, 4, 19, 12], [0, 0, 9, 8]], [1, 2], [1, 1], [2.5, 1])
    (particle,) = stream_particles([np.zeros((20, 30))], lambda image: found)
    assert particle.box == (13, 6, 17, 9) and particle.mass == 2.5
    assert particle.mask.all()


def test_rendered_belt_from_its_files(tmp_path: Path) -> None:
    """The frames of prepare_data's belt, its labels in place of a network, against its own list of whole stones."""
    config = SceneConfig(height=96, width=96, stones=(14, 14), resolution=(1.5, 1.5), classes=("Rc", "Ru", "Rb"))
    folder = write_belt(tmp_path / "belt", config, frames=6, overlap=10, seed=4)
    truth = pd.read_csv(folder / "belt.csv").set_index("belt_label")
    rows, frames = pd.read_csv(folder / "annotations.csv"), []
    for path in sorted((folder / "labels").glob("*.png")):
        of_frame = rows[rows["baseimg"] == path.stem].set_index("label")["belt_label"]
        renumber = np.zeros(len(of_frame) + 1, np.int32)
        renumber[of_frame.index] = of_frame
        frames.append(renumber[cv2.imread(str(path), cv2.IMREAD_UNCHANGED)])
    labels = np.concatenate([frames[0], *(frame[10:] for frame in frames[1:])])
    count, names = int(labels.max()) + 1, sorted(truth["class"].unique())
    masses, classes = np.zeros(count), np.zeros(count, int)
    masses[truth.index], classes[truth.index] = truth["mass"], truth["class"].map(names.index)
    belt = Belt(labels, np.bincount(labels.ravel(), minlength=count), masses, classes, np.ones(count))
    found = list(stream_particles(frames, belt.predict, overlap=10))
    assert len(found) == len(truth) > 50
    assert sum(p.mass for p in found) == pytest.approx(truth["mass"].sum(), rel=1e-6)
    counts = truth["class"].value_counts().to_dict()
    assert pd.Series([names[p.class_id] for p in found]).value_counts().to_dict() == counts
