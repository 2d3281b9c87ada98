"""Parts of particles: which belong together, which count, and what they add up to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from ramses_d2.analysis.stream.stitch import FrameInstances, Part, StreamStitcher, instances_from_prediction, join_parts
from tests.analysis.stream.belts import Belt, blocks, cut, make_belt, no_instances, seen_differently


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


@pytest.mark.parametrize("overlap", [12, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_that_outlines_everything_differently_in_every_window(overlap: int, seed: int) -> None:
    belt = make_belt(600, 900, 300, long=4, seed=seed)
    flat = Belt(belt.labels, belt.areas, belt.areas.astype(float), belt.classes, belt.scores)
    rng, stitcher, parts, top = np.random.default_rng(seed), StreamStitcher(), [], 0
    for top in range(0, 900 - overlap, 100 - overlap):
        bottom = min(top + 100, 900)
        seen = seen_differently(belt.labels[top:bottom], rng)
        next_top = bottom - overlap if bottom < 900 else bottom
        areas = np.bincount(seen.ravel(), minlength=601)
        parts += stitcher.add(flat._replace(areas=areas, masses=areas).predict(seen), top, bottom, next_top)
    parts += stitcher.finish()
    painted = np.zeros(belt.labels.shape, int)
    for part in parts:
        painted[part.row : part.end_row, part.column : part.end_column] += part.mask
    assert painted.max() == 1
    assert len(parts) == pytest.approx(600, rel=0.005)
    assert sum(part.mass for part in parts) == pytest.approx(belt.areas[1:].sum(), rel=0.01)


A, B = (0, 42, 0, 10), (43, 100, 0, 10)


@pytest.mark.parametrize("first", [41, 40])
@pytest.mark.parametrize("earlier", [(A, B), (A,)])
def test_the_tip_of_a_particle_in_the_outline_of_its_neighbour(first: int, earlier: tuple) -> None:
    """Windows of rows 0-100 and 40-140: the later one gives the last rows of A to B."""
    parts = joined((blocks(*earlier), 0, 100, 40), (blocks((first - 40, 60, 0, 10)), 40, 140, 140))
    assert extents(parts) == [(0, 42, 420), (42, 100, 580)]


def test_the_beginning_of_a_particle_in_the_outline_of_its_neighbour() -> None:
    """The other way round: the earlier window gives the first rows of the second particle to the one before."""
    later = blocks((0, 57, 0, 10), (57, 110, 0, 10))
    parts = joined((blocks((0, 100, 0, 10)), 0, 100, 40), (later, 40, 160, 160))
    assert extents(parts) == [(0, 100, 1000), (100, 150, 500)]


def test_tips_in_few_common_rows() -> None:
    """Windows share 10 rows: what the earlier one shows of B, not how long the tip of A is, tells them apart."""
    later = (blocks((0, 60, 0, 10)), 90, 190, 190)
    assert extents(joined((blocks((0, 93, 0, 10), (93, 100, 0, 10)), 0, 100, 90), later)) == [
        (0, 93, 930),
        (93, 150, 570),
    ]
    # An outline that ends 3 px too early is one particle with what goes on
    assert extents(joined((blocks((0, 97, 0, 10)), 0, 100, 90), later)) == [(0, 150, 1500)]


def test_a_small_particle_that_the_outline_of_its_neighbour_half_holds() -> None:
    parts = joined((blocks((36, 44, 0, 10), (44, 100, 0, 10)), 0, 100, 40), (blocks((0, 60, 0, 10)), 40, 140, 140))
    assert extents(parts) == [(36, 44, 80), (44, 100, 560)]


def test_no_row_is_lost_where_outlines_end_early_or_begin_late() -> None:
    (part,) = joined((blocks((10, 65, 0, 10)), 0, 100, 40), (blocks((5, 60, 0, 10)), 40, 140, 140))
    assert (part.row, part.end_row, part.mass) == (10, 100, 900)
    (part,) = joined((blocks((10, 100, 0, 10)), 0, 100, 40), (blocks((40, 90, 0, 10)), 40, 140, 140))
    assert (part.row, part.end_row, part.mass) == (10, 130, 1200)


def test_a_particle_keeps_what_the_other_window_took_for_two() -> None:
    """A rod beside a stone in rows 60-85, which one window outlines as one: the stone counts, whole and once."""
    mask = np.zeros((90, 20), bool)
    mask[:, :10] = mask[20:45, 10:] = True
    one = FrameInstances([mask], [[0, 0, 20, 90]], [0], [1.0], [float(mask.sum())])
    two = blocks((10, 100, 0, 10), (60, 85, 10, 20))
    (part,) = joined((two, 0, 100, 40), (one, 40, 140, 140))
    assert (part.row, part.end_row, part.mass, part.area) == (10, 130, 1450, 1450)
    # The stone in rows 50-75: the later window leaves it to the earlier one, which has it in the rod
    mask = np.zeros((90, 20), bool)
    mask[:, :10] = mask[40:65, 10:] = True
    one = FrameInstances([mask], [[0, 10, 20, 100]], [0], [1.0], [float(mask.sum())])
    (part,) = joined((one, 0, 100, 40), (blocks((0, 90, 0, 10), (10, 35, 10, 20)), 40, 140, 140))
    assert (part.row, part.end_row, part.mass, part.area) == (10, 130, 1450, 1450)


def test_a_fork_of_which_one_prong_ends_before_the_next_window_begins() -> None:
    """Windows of rows 0-100, 60-160 and 120-220: the handle is joined with both prongs, the longer one goes on."""
    parts = joined(
        (blocks((10, 100, 0, 30)), 0, 100, 60),
        (blocks((0, 55, 0, 10), (0, 100, 20, 30)), 60, 160, 120),
        (blocks((0, 40, 20, 30)), 120, 220, 220),
    )
    assert extents(parts) == [(10, 160, 70 * 30 + 35 * 10 + 80 * 10)]


def test_a_part_that_was_joined_late_is_known_in_the_next_window() -> None:
    """The second window shows the rod from row 95 on only, and shares all but 1 row of that with the third."""
    parts = joined(
        (blocks((0, 100, 0, 10)), 0, 100, 85),
        (blocks((10, 21, 0, 10)), 85, 106, 86),
        (blocks((0, 64, 0, 10)), 86, 186, 186),
    )
    assert extents(parts) == [(0, 150, 1500)]


def test_what_each_window_leaves_to_the_other_counts_though_outlines_differ_much() -> None:
    parts = joined((blocks((78, 83, 0, 10)), 0, 100, 60), (blocks((6, 24, 0, 10)), 60, 160, 160))
    assert extents(parts) == [(66, 84, 180)]


def test_what_is_left_out_for_another_is_not_lost_with_it() -> None:
    """Rows 60-85 of the later window hold half of what both rows 45-80 and 80-90 of the earlier one hold."""
    later = blocks((20, 50, 0, 10))
    parts = joined((blocks((45, 80, 0, 10), (80, 90, 0, 10)), 0, 100, 40), (later, 40, 140, 140))
    assert extents(parts) == [(45, 80, 350), (80, 90, 100)]


def test_neighbours_whose_border_two_windows_see_at_different_rows_keep_their_mass() -> None:
    """No pixel is in both, and the mass of neither changes: borders leave gaps as often as they overlap."""
    parts = joined((blocks((45, 70, 0, 10)), 0, 100, 40), (blocks((28, 70, 0, 10)), 40, 140, 140))
    assert extents(parts) == [(45, 70, 250), (70, 110, 420)]


def test_a_third_window_does_not_count_the_pixels_of_the_first_again() -> None:
    parts = joined(
        (blocks((50, 84, 0, 10)), 0, 100, 40),
        (blocks((10, 44, 0, 10), (44, 98, 0, 10)), 40, 140, 80),
        (blocks((0, 58, 0, 10)), 80, 180, 180),
    )
    assert extents(parts) == [(50, 84, 340), (84, 138, 540)]


def test_a_narrow_tip_at_a_seam_is_not_joined_with_what_its_neighbour_goes_on_as() -> None:
    """No common rows. A ends at the seam with one px, below which the neighbour B has become wider."""
    tip = np.ones((50, 10), bool)
    tip[-1, :9] = False
    found = FrameInstances(
        [tip, np.ones((50, 20), bool)], [[0, 50, 10, 100], [10, 50, 30, 100]], [0, 0], [1, 1], [1, 2]
    )
    parts = joined((found, 0, 100, 100), (blocks((0, 40, 8, 30)), 100, 200, 200))
    assert extents(parts) == [(50, 100, 1), (50, 140, 882)]
    # Without a neighbour it is the particle's own end that is narrow
    assert len(joined((found, 0, 100, 100), (blocks((0, 1, 15, 16)), 100, 200, 200))) == 2


def test_union_of_parts() -> None:
    big = Part(0, 5, np.ones((4, 5), bool), class_id=2, score=0.9, mass=1.0)
    small = Part(4, 3, np.ones((2, 5), bool), class_id=1, score=0.6, mass=0.5)
    whole = join_parts([small, big])
    assert (whole.row, whole.column, whole.mask.shape, whole.mask.sum()) == (0, 3, (6, 7), 30)
    assert (whole.class_id, whole.mass, whole.score) == (2, 1.5, pytest.approx(0.8))
    assert np.isnan(join_parts([big, Part(4, 3, small.mask, 1, 0.6, np.nan)]).mass)


def test_windows_must_follow_each_other() -> None:
    stitcher = StreamStitcher()
    stitcher.add(no_instances(), 0, 100, 90)
    with pytest.raises(ValueError, match="do not continue"):
        stitcher.add(no_instances(), 91, 190, 180)
    with pytest.raises(ValueError, match="cannot begin"):
        stitcher.add(no_instances(), 90, 190, 191)


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
