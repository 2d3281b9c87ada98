"""Parts of particles: which belong together, which count, and what they add up to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from ramses_d2.analysis.stream.stitch import (
    FrameInstances,
    Part,
    StreamStitcher,
    instances_from_prediction,
    join_parts,
)
from tests.analysis.stream.belts import Belt, cut, instances, make_belt, seen_differently


@pytest.mark.parametrize("overlap", [0, 14])
def test_instances_of_frames_without_pixels(overlap: int) -> None:
    """Predictions of the frames themselves, joined at the seams: cut particles are the sums of their parts."""
    belt = make_belt(600, 900, 300, long=4, lone=overlap == 0)
    stitcher, parts, frames = StreamStitcher(), [], cut(900, (30, 90), overlap)
    for rows, after in zip(frames, [*frames[1:], None], strict=True):
        next_top = rows.stop if after is None else after.start
        parts += stitcher.add(belt.predict(belt.labels[rows]), rows.start, rows.stop, next_top)
    parts += stitcher.finish()
    assert stitcher.finish() == []
    painted = np.zeros_like(belt.labels)
    for part in parts:
        box = np.s_[part.row : part.end_row, part.column : part.end_column]
        (label,) = np.unique(belt.labels[box][part.mask])
        assert not painted[box][part.mask].any()
        painted[box][part.mask] = label
        assert part.mass == pytest.approx(belt.masses[label])
    assert np.array_equal(painted, belt.labels)
    assert len(parts) == np.count_nonzero(belt.areas[1:])


@pytest.mark.parametrize("overlap", [12, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_that_outlines_everything_differently_in_every_window(overlap: int, seed: int) -> None:
    belt = make_belt(600, 900, 300, long=4, seed=seed)
    flat = Belt(belt.labels, belt.areas, belt.areas.astype(float), belt.classes, belt.scores)
    rng, stitcher, parts = np.random.default_rng(seed), StreamStitcher(), []
    for top in range(0, 900 - overlap, 100 - overlap):
        bottom = min(top + 100, 900)
        seen = seen_differently(belt.labels[top:bottom], rng)
        areas = np.bincount(seen.ravel(), minlength=601)
        found = flat._replace(areas=areas, masses=areas).predict(seen)
        parts += stitcher.add(found, top, bottom, bottom - overlap if bottom < 900 else bottom)
    parts += stitcher.finish()
    painted = np.zeros(belt.labels.shape, int)
    for part in parts:
        painted[part.row : part.end_row, part.column : part.end_column] += part.mask
    assert painted.max() == 1
    assert len(parts) == pytest.approx(600, rel=0.005)
    assert sum(part.mass for part in parts) == pytest.approx(belt.areas[1:].sum(), rel=0.01)


def window(top: int, bottom: int, next_top: int, *particles: tuple) -> tuple[FrameInstances, int, int, int]:
    """Of rectangles (first and last + 1 row and column of the belt) of 1 g per px, or particles of several of them."""
    masks = []
    for particle in particles:
        masks.append(np.zeros((bottom - top, 40), bool))
        for r0, r1, c0, c1 in particle if isinstance(particle[0], tuple) else [particle]:
            masks[-1][r0 - top : r1 - top, c0:c1] = True
    return instances([[0, 0, 40, bottom - top]] * len(masks), masks), top, bottom, next_top


def joined(*windows: tuple[FrameInstances, int, int, int]) -> list[Part]:
    stitcher = StreamStitcher()
    return [part for found, *rows in windows for part in stitcher.add(found, *rows)] + stitcher.finish()


def rows(first: int, last: int) -> tuple[int, int, int, int]:
    return first, last, 0, 10


# Rows of windows and of the next ones, particles that they see -> first row, last + 1, mass, area of what counts
FORTY, SIXTY = (0, 100, 60), (0, 100, 40)  # rows in common with what follows
AFTER_FORTY, AFTER_SIXTY, SEAM, AFTER_SEAM = (60, 160, 160), (40, 160, 160), (0, 100, 100), (100, 200, 200)
A, B = rows(0, 42), rows(43, 100)
NARROW = ((50, 99, 0, 10), (99, 100, 9, 10))  # ends at the seam with one px
JOINS = {
    "both claim it: the larger outline, here the first of equals": [
        ([(*FORTY, rows(70, 89)), (*AFTER_FORTY, rows(72, 91))], [(70, 89, 190)]),
        ([(*FORTY, rows(70, 89)), (*AFTER_FORTY, rows(70, 97))], [(70, 97, 270)]),
    ],
    "neither claims it: the later outline": [
        ([(*FORTY, rows(70, 93)), (*AFTER_FORTY, rows(69, 87))], [(69, 87, 180)]),
    ],
    "agreed: the first window's, or the second's": [
        ([(*FORTY, rows(70, 80)), (*AFTER_FORTY, rows(71, 80))], [(70, 80, 100)]),
        ([(*FORTY, rows(80, 90)), (*AFTER_FORTY, rows(81, 90))], [(81, 90, 90)]),
    ],
    "what both leave is not taken from under a particle that counts": [
        ([(*FORTY, rows(72, 90)), (*AFTER_FORTY, (65, 105, 0, 12), rows(70, 88))], [(65, 105, 480)]),
    ],
    "what one window alone sees counts only in its own part": [
        ([(*FORTY, rows(70, 80)), AFTER_FORTY], [(70, 80, 100)]),
        ([(*FORTY, rows(85, 95)), AFTER_FORTY], []),
        ([FORTY, (*AFTER_FORTY, rows(70, 78))], []),
        ([FORTY, (*AFTER_FORTY, rows(85, 95))], [(85, 95, 100)]),
    ],
    "an outline that stops short of the edge goes on in the next window": [
        ([(*FORTY, rows(30, 95)), (*AFTER_FORTY, rows(60, 120))], [(30, 120, 900)]),
    ],
    "prongs with one handle, and a handle with two prongs": [
        ([(*SEAM, (50, 100, 0, 10), (50, 100, 20, 30)), (*AFTER_SEAM, (100, 140, 0, 30))], [(50, 140, 2200)]),
        ([(*SEAM, (60, 100, 0, 30)), (*AFTER_SEAM, rows(100, 150), (100, 130, 20, 30))], [(60, 150, 2000)]),
    ],
    "neighbours across a seam with less than half of the narrower one's width, or not at it": [
        ([(*SEAM, rows(50, 100)), (*AFTER_SEAM, (100, 140, 6, 30))], [(50, 100, 500), (100, 140, 960)]),
        ([(*SEAM, rows(50, 99)), (*AFTER_SEAM, rows(100, 140))], [(50, 99, 490), (100, 140, 400)]),
    ],
    "a narrow tip at a seam, below which its neighbour has become wider; or its own end is narrow": [
        ([(*SEAM, NARROW, (50, 100, 10, 30)), (*AFTER_SEAM, (100, 140, 8, 30))], [(50, 100, 491), (50, 140, 1880)]),
        ([(*SEAM, NARROW, (50, 100, 10, 30)), (*AFTER_SEAM, (100, 101, 15, 16))], [(50, 100, 491), (50, 101, 1001)]),
    ],
    "the later window gives the last rows of A to B": [
        ([(*SIXTY, *seen), (*AFTER_SIXTY, rows(first, 100))], [(0, 42, 420), (42, 100, 580)])
        for first in (41, 40)
        for seen in ((A, B), (A,))
    ],
    "the earlier window gives the first rows of the second particle to the one before": [
        ([(*SIXTY, rows(0, 100)), (*AFTER_SIXTY, rows(40, 97), rows(97, 150))], [(0, 100, 1000), (100, 150, 500)]),
    ],
    "few common rows: what the earlier window shows tells them apart; an end 3 px too early does not": [
        ([(0, 100, 90, rows(0, 93), rows(93, 100)), (90, 190, 190, rows(90, 150))], [(0, 93, 930), (93, 150, 570)]),
        ([(0, 100, 90, rows(0, 97)), (90, 190, 190, rows(90, 150))], [(0, 150, 1500)]),
    ],
    "what a part shares most with is what it is, and not what continues the particle above": [
        ([(*SIXTY, rows(0, 62), rows(62, 77)), (*AFTER_SIXTY, rows(48, 100))], [(0, 62, 620), (62, 100, 380)]),
    ],
    "what is left of a particle beside two that count: half is not enough": [
        (
            [(*SIXTY, (41, 70, 0, 5), (41, 70, 5, 30)), (*AFTER_SIXTY, rows(60, 80))],
            [(41, 70, 145), (41, 70, 725)],
        ),
    ],
    "what an outline held that another one has replaced is not lost": [
        ([(*SIXTY, rows(50, 80)), (*AFTER_SIXTY, rows(62, 110), rows(44, 58))], [(44, 58, 140), (62, 110, 480)]),
    ],
    "a small particle that the outline of its neighbour half holds": [
        ([(*SIXTY, rows(36, 44), rows(44, 100)), (*AFTER_SIXTY, rows(40, 100))], [(36, 44, 80), (44, 100, 560)]),
    ],
    "no row is lost where outlines end early or begin late": [
        ([(*SIXTY, rows(10, 65)), (*AFTER_SIXTY, rows(45, 100))], [(10, 100, 900)]),
        ([(*SIXTY, rows(10, 100)), (*AFTER_SIXTY, rows(80, 130))], [(10, 130, 1200)]),
    ],
    "a rod beside a stone, which one window outlines as one: the stone counts, whole and once": [
        (
            [(*SIXTY, rows(10, 100), (60, 85, 10, 20)), (*AFTER_SIXTY, (rows(40, 130), (60, 85, 10, 20)))],
            [(10, 130, 1450, 1450)],
        ),
        (
            [(*SIXTY, (rows(10, 100), (50, 75, 10, 20))), (*AFTER_SIXTY, rows(40, 130), (50, 75, 10, 20))],
            [(10, 130, 1450, 1450)],
        ),
    ],
    "a fork of which one prong ends before the third window begins, and the longer one goes on": [
        (
            [
                (*FORTY, (10, 100, 0, 30)),
                (60, 160, 120, rows(60, 115), (60, 160, 20, 30)),
                (120, 220, 220, (120, 160, 20, 30)),
            ],
            [(10, 160, 70 * 30 + 35 * 10 + 80 * 10)],
        ),
    ],
    "a part that was joined late is known in the next window, which shares all but 1 row of it": [
        ([(0, 100, 85, rows(0, 100)), (85, 106, 86, rows(95, 106)), (86, 186, 186, rows(86, 150))], [(0, 150, 1500)]),
    ],
    "what each window leaves to the other counts though outlines differ much": [
        ([(*FORTY, rows(78, 83)), (*AFTER_FORTY, rows(66, 84))], [(66, 84, 180)]),
    ],
    "what is left out for another is not lost with it": [
        ([(*SIXTY, rows(45, 80), rows(80, 90)), (*AFTER_SIXTY, rows(60, 90))], [(45, 80, 350), (80, 90, 100)]),
    ],
    "neighbours whose border two windows see at different rows keep their mass": [
        ([(*SIXTY, rows(45, 70)), (*AFTER_SIXTY, rows(68, 110))], [(45, 70, 250), (70, 110, 420)]),
    ],
    "no later window counts the pixels of the first again": [
        (
            [(*SIXTY, rows(50, 84)), (40, 140, 80, rows(50, 84), rows(84, 138)), (80, 180, 180, rows(80, 138))],
            [(50, 84, 340), (84, 138, 540)],
        ),
        (
            [
                (*SIXTY, rows(45, 65)),
                (40, 140, 44, rows(45, 65)),
                (44, 144, 60, rows(45, 65)),
                (60, 160, 160, rows(60, 152)),
            ],
            [(45, 65, 200), (65, 152, 870)],
        ),
    ],
}


@pytest.mark.parametrize(
    ("windows", "counts"), [pytest.param(*case, id=why) for why, cases in JOINS.items() for case in cases]
)
def test_what_counts_of_what_windows_see(windows: list[tuple], counts: list[tuple]) -> None:
    parts = joined(*(window(*seen) for seen in windows))
    found = sorted((part.row, part.end_row, part.mass, part.area) for part in parts)
    assert [one[: len(wanted)] for one, wanted in zip(found, counts, strict=True)] == counts


def test_long_particles_join_in_the_middle_of_the_common_rows() -> None:
    """Rows 0-100 and 60-160: the first outline counts up to row 80, the second one, 2 px wider, from there."""
    (part,) = joined(window(*FORTY, (10, 100, 10, 20)), window(*AFTER_FORTY, (60, 130, 10, 22)))
    assert (part.row, part.end_row, part.column, part.end_column) == (10, 130, 10, 22)
    assert part.mass == pytest.approx(70 * 10 + 50 * 12)
    assert (part.mask[:70].sum(), part.mask[70:].sum()) == (700, 600)


def test_mass_class_and_score_of_joined_parts() -> None:
    big = Part(0, 5, np.ones((4, 5), bool), class_id=2, score=0.9, mass=1.0)
    small = Part(4, 3, np.ones((2, 5), bool), class_id=1, score=0.6, mass=0.5)
    whole = join_parts([small, big])
    assert (whole.row, whole.column, whole.mask.shape, whole.mask.sum()) == (0, 3, (6, 7), 30)
    assert (whole.class_id, whole.mass, whole.score) == (2, 1.5, pytest.approx(0.8))
    assert np.isnan(join_parts([big, Part(4, 3, small.mask, 1, 0.6, np.nan)]).mass)


def test_windows_must_follow_each_other() -> None:
    stitcher = StreamStitcher()
    stitcher.add(instances([]), 0, 100, 90)
    for rows_of_window, problem in (((91, 190, 180), "do not continue"), ((90, 190, 191), "cannot begin")):
        with pytest.raises(ValueError, match=problem):
            stitcher.add(instances([]), *rows_of_window)


@pytest.mark.parametrize(("box", "scores", "problem"), [([0, 0, 3, 2], 2, "2 scores"), ([0, 0, 2, 3], 1, "mask 0")])
def test_instances_check_themselves(box: list[int], scores: int, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        FrameInstances([np.ones((2, 3), bool)], [box], [0], [1.0] * scores, [1.0])


def test_predictions_of_a_network() -> None:
    """Detectron2's instances: a disputed pixel goes to the surer particle, and what it hides is left out."""
    masks = torch.zeros(3, 20, 30, dtype=torch.bool)
    masks[0, 2:10, 3:12] = True
    masks[1, 8:16, 3:12] = True
    masks[2, 0:2, 20:25] = True
    prediction = Instances((20, 30), pred_masks=masks, scores=torch.tensor([0.5, 0.9, 0.1]))
    prediction.pred_boxes = Boxes(torch.tensor([[3.0, 2, 12, 10], [3, 8, 12, 16], [20, 0, 25, 2]]))
    prediction.pred_classes = torch.tensor([4, 2, 1])
    found = instances_from_prediction(prediction, min_score=0.3)
    assert found.boxes.tolist() == [[3, 2, 12, 8], [3, 8, 12, 16]] and found.classes.tolist() == [4, 2]
    assert np.isnan(found.masses).all()
    prediction.pred_masses = torch.tensor([1.0, 2.0, 3.0])
    assert instances_from_prediction(prediction).masses.tolist() == [1, 2, 3]
    prediction.pred_masks[0], prediction.pred_boxes.tensor[0] = masks[1], prediction.pred_boxes.tensor[1]
    assert instances_from_prediction(prediction).masses.tolist() == [2, 3]
