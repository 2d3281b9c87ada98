"""The order of frames, and missing ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramses_d2.analysis.stream.belt import find_gaps, frame_numbers, natural_order


def test_natural_order() -> None:
    assert natural_order(["f10.png", "f2.png", "F1.png", "f2.jpg", "3.png"]) == [
        "3.png",
        "F1.png",
        "f2.jpg",
        "f2.png",
        "f10.png",
    ]
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


def test_no_gaps() -> None:
    assert find_gaps([f"f{number}.jpg" for number in range(95, 105)]) == []
    assert find_gaps([f"f{number}.jpg" for number in range(40, 0, -4)]) == []
    assert find_gaps(["left.jpg", "right.jpg"]) == []


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([1, 2, 4, 5], [(2, 1)]),
        ([1, 5], [(1, 3)]),
        ([1, 2, 4], [(2, 1)]),  # of equally frequent steps the smaller one is usual
        ([10, 20, 30, 60, 70], [(3, 2)]),
        ([9, 8, 6, 5], [(2, 1)]),
        ([1, 2, 2, 3, 4], [(2, None)]),
        ([7, 8, 9, 1, 2, 3, 7], [(3, None), (6, 3)]),
        ([2, 4, 6, 9, 11], [(3, None)]),
    ],
)
def test_gaps(numbers: list[int], found: list[tuple[int, int | None]]) -> None:
    gaps = find_gaps([f"run3/f{number:03d}.jpg" for number in numbers])
    assert [(gap.index, gap.missing) for gap in gaps] == found


def test_a_time_behind_the_counter_neither_hides_a_gap_nor_makes_one() -> None:
    times = [100, 101, 103, 104, 105, 107, 108, 109]
    names = [f"frame_{number:04d}_{time}" for number, time in enumerate(times)]
    assert find_gaps(names) == []
    (gap,) = find_gaps(names[:4] + names[5:])
    assert (gap.index, gap.missing) == (4, 1)
    (gap,) = find_gaps(["frame_0001_100", "frame_0002_101", "frame_0003_104", "frame_0005_110"])
    assert (gap.index, gap.missing) == (3, 1)


def test_messages() -> None:
    one, two = find_gaps([Path("x/f1.jpg"), Path("x/f2.jpg"), Path("x/f4.jpg"), Path("x/f5.jpg"), Path("x/f3.jpg")])
    assert one.message == "1 frame is missing between f2.jpg and f4.jpg"
    assert two.message == "f3.jpg does not continue f5.jpg: the frame number usually changes by +1, here by -2"
    (three,) = find_gaps(["f1", "f2", "f3", "f7"])
    assert three.message == "3 frames are missing between f3 and f7"
