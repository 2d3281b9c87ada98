"""Parts of particles: which belong together, which count, and what they add up to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from ramses_d2.analysis.stream.geometry import RowBuffer
from ramses_d2.analysis.stream.instances import FrameInstances, instances_from_prediction
from ramses_d2.analysis.stream.parts import Part, union
from ramses_d2.analysis.stream.stitcher import StreamStitcher

from .belts import blocks, cut, make_belt, no_instances


@pytest.mark.parametrize("overlap", [0, 14])
def test_instances_of_frames_without_pixels(overlap: int) -> None:
    """Predictions of the frames themselves, joined at the seams: cut particles are the sums of their parts."""
    belt = make_belt(600, 900, 300, long=4, lone=overlap == 0)
    stitcher = StreamStitcher()
    parts = []
    frames = cut(900, (30, 90), overlap)
    for index, rows in enumerate(frames):
        next_top = frames[index + 1].start if index + 1 < len(frames) else rows.stop
        parts += stitcher.add(belt.predict(belt.labels[rows]), rows.start, rows.stop, next_top)
    parts += stitcher.finish()
    assert stitcher.finish() == []
    painted = np.zeros_like(belt.labels)
    for part in parts:
        region = painted[part.row : part.end_row, part.column : part.end_column]
        (label,) = np.unique(belt.labels[part.row : part.end_row, part.column : part.end_column][part.mask])
        assert not region[part.mask].any()
        region[part.mask] = label
        assert part.mass == pytest.approx(belt.masses[label])
    assert np.array_equal(painted, belt.labels)
    assert len(parts) == np.count_nonzero(belt.areas[1:])


def joined(*windows: tuple[FrameInstances, int, int, int]) -> list[Part]:
    stitcher = StreamStitcher()
    found = [part for found, *rows in windows for part in stitcher.add(found, *rows)]
    return found + stitcher.finish()


def extents(parts: list[Part]) -> list[tuple[int, int, float]]:
    return sorted((part.row, part.end_row, part.mass) for part in parts)


def test_outlines_that_differ_between_windows() -> None:
    """Windows of rows 0-100 and 60-160 share 60-100; what lies above row 80 in the middle is the first one's."""
    for first, second, kept in (
        ((70, 89, 0, 10), (72, 91, 0, 10), (70, 89)),  # both claim it: the larger outline, here the first of equals
        ((70, 89, 0, 10), (70, 97, 0, 10), (70, 97)),  # both claim it
        ((70, 93, 0, 10), (69, 87, 0, 10), (69, 87)),  # neither does: the later outline
        ((70, 80, 0, 10), (71, 80, 0, 10), (70, 80)),  # agreed: the first window's
        ((80, 90, 0, 10), (81, 90, 0, 10), (81, 90)),  # agreed: the second window's
    ):
        shifted = (second[0] - 60, second[1] - 60, *second[2:])
        parts = joined((blocks(first), 0, 100, 60), (blocks(shifted), 60, 160, 160))
        assert [(part.row, part.end_row) for part in parts] == [kept], (first, second)


def test_what_both_windows_leave_is_not_taken_from_under_a_particle_that_counts() -> None:
    """The later window sees rows 65 to 105 as one particle, and another outline on top of it."""
    later = blocks((5, 45, 0, 12), (10, 28, 0, 10))
    parts = joined((blocks((72, 90, 0, 10)), 0, 100, 60), (later, 60, 160, 160))
    assert [(part.row, part.end_row) for part in parts] == [(65, 105)]


def test_what_one_window_alone_sees_counts_only_in_its_own_part() -> None:
    seen = joined((blocks((70, 80, 0, 10)), 0, 100, 60), (no_instances(), 60, 160, 160))
    assert len(seen) == 1
    assert joined((blocks((85, 95, 0, 10)), 0, 100, 60), (no_instances(), 60, 160, 160)) == []
    assert joined((no_instances(), 0, 100, 60), (blocks((10, 18, 0, 10)), 60, 160, 160)) == []
    assert len(joined((no_instances(), 0, 100, 60), (blocks((25, 35, 0, 10)), 60, 160, 160))) == 1


def test_long_particles_join_in_the_middle_of_the_zone() -> None:
    """Rows 0-100 and 60-160: the first outline counts up to row 80, the second one, 2 px wider, from there."""
    parts = joined(
        (blocks((10, 100, 10, 20)), 0, 100, 60),
        (blocks((0, 70, 10, 22)), 60, 160, 160),
    )
    (part,) = parts
    assert (part.row, part.end_row) == (10, 130)
    assert part.mass == pytest.approx(70 * 10 + 50 * 12)
    assert part.mask[:70].sum() == 700
    assert part.mask[70:].sum() == 600


def test_an_outline_that_stops_short_of_the_edge_goes_on_in_the_next_window() -> None:
    (part,) = joined((blocks((30, 95, 10, 20)), 0, 100, 60), (blocks((0, 60, 10, 20)), 60, 160, 160))
    assert (part.row, part.end_row, part.mass) == (30, 120, 900)


def test_branches_of_one_particle_are_joined() -> None:
    """A fork: two prongs that only the next window shows to be one, and the other way round."""
    prongs, handle = ((50, 100, 0, 10), (50, 100, 20, 30)), (0, 40, 0, 30)
    (fork,) = joined((blocks(*prongs), 0, 100, 100), (blocks(handle), 100, 200, 200))
    assert (fork.row, fork.end_row, fork.mass) == (50, 140, 2200)
    (fork,) = joined((blocks((60, 100, 0, 30)), 0, 100, 100), (blocks((0, 50, 0, 10), (0, 30, 20, 30)), 100, 200, 200))
    assert (fork.row, fork.end_row, fork.mass) == (60, 150, 2000)


def test_neighbours_across_a_seam_are_not_joined() -> None:
    """They meet at the seam with less than half of the narrower one's width."""
    parts = joined((blocks((50, 100, 0, 10)), 0, 100, 100), (blocks((0, 40, 6, 30)), 100, 200, 200))
    assert extents(parts) == [(50, 100, 500), (100, 140, 960)]
    parts = joined((blocks((50, 99, 0, 10)), 0, 100, 100), (blocks((0, 40, 0, 10)), 100, 200, 200))
    assert len(parts) == 2


def test_union_of_parts() -> None:
    big = Part(0, 5, np.ones((4, 5), bool), class_id=2, score=0.9, mass=1.0)
    small = Part(4, 3, np.ones((2, 5), bool), class_id=1, score=0.6, mass=0.5)
    whole = union([small, big])
    assert (whole.row, whole.column, whole.mask.shape, whole.mask.sum()) == (0, 3, (6, 7), 30)
    assert (whole.class_id, whole.mass, whole.score) == (2, 1.5, pytest.approx(0.8))
    assert np.isnan(union([big, Part(4, 3, small.mask, 1, 0.6, np.nan)]).mass)


def test_windows_must_follow_each_other() -> None:
    stitcher = StreamStitcher()
    stitcher.add(no_instances(), 0, 100, 90)
    with pytest.raises(ValueError, match="do not continue"):
        stitcher.add(no_instances(), 91, 190, 180)
    with pytest.raises(ValueError, match="cannot begin"):
        stitcher.add(no_instances(), 90, 190, 191)


def test_row_buffer() -> None:
    rows = np.arange(60).reshape(20, 3)
    buffer = RowBuffer()
    buffer.append(rows[:8])
    buffer.drop_above(5)
    buffer.append(rows[8:20])
    assert (buffer.top, buffer.bottom) == (5, 20)
    assert np.array_equal(buffer.view(7, 19), rows[7:19])
    buffer.drop_above(6)
    assert np.array_equal(buffer.view(6, 20), rows[6:20])
    with pytest.raises(ValueError, match="read-only"):
        buffer.view(6, 20)[0] = 0


def test_instances_check_themselves() -> None:
    with pytest.raises(ValueError, match="1 masks, but 2 scores"):
        FrameInstances([np.ones((2, 3), bool)], np.array([[0, 0, 3, 2]]), [0], [1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match=r"mask 0 is \(2, 3\)"):
        FrameInstances([np.ones((2, 3), bool)], np.array([[0, 0, 2, 3]]), [0], [1.0], [1.0])


def test_predictions_of_a_network() -> None:
    """Detectron2's instances, in either mask format: a disputed pixel goes to the surer particle."""
    masks = torch.zeros(3, 20, 30, dtype=torch.bool)
    masks[0, 2:10, 3:12] = True
    masks[1, 8:16, 3:12] = True
    masks[2, 0:2, 20:25] = True
    prediction = Instances((20, 30))
    prediction.pred_boxes = Boxes(torch.tensor([[3.0, 2, 12, 10], [3, 8, 12, 16], [20, 0, 25, 2]]))
    prediction.pred_masks = masks
    prediction.scores = torch.tensor([0.5, 0.9, 0.1])
    prediction.pred_classes = torch.tensor([4, 2, 1])
    found = instances_from_prediction(prediction, min_score=0.3)
    assert found.boxes.tolist() == [[3, 2, 12, 8], [3, 8, 12, 16]]
    assert found.classes.tolist() == [4, 2]
    assert np.isnan(found.masses).all()
    prediction.pred_masses = torch.tensor([1.0, 2.0, 3.0])
    assert instances_from_prediction(prediction).masses.tolist() == [1, 2, 3]
    prediction.pred_masks[0] = prediction.pred_masks[1]  # hidden by a surer one
    prediction.pred_boxes.tensor[0] = prediction.pred_boxes.tensor[1]
    assert instances_from_prediction(prediction).masses.tolist() == [2, 3]
