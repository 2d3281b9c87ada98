"""The particle table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ramses_d2.analysis.particles import COLUMNS, measure_particle, particle_row, particle_table, table_of
from tests.analysis.shapes import ellipse, polygon

MM = ["length_mm", "width_mm", "feret_max_mm", "feret_min_mm"]
MM += ["inscribed_diameter_mm", "equivalent_diameter_mm", "area_mm2"]


@pytest.fixture
def labels() -> np.ndarray:
    """1: ellipse, 2: square beside it that reaches into its box, 3: no pixel, 4: a pixel in the last corner."""
    image = np.zeros((80, 120), np.uint16)
    shape = ellipse(40, 30, 2)
    image[10 : 10 + shape.shape[0], 5 : 5 + shape.shape[1]][shape] = 1
    image[10:30, 45:65][image[10:30, 45:65] == 0] = 2
    image[79, 119] = 4
    return image


def table(labels: np.ndarray, resolution: float = 4.0, **options: Any) -> pd.DataFrame:
    count = int(labels.max())
    names, grams = [f"c{i}" for i in range(count)], np.arange(count, dtype=np.float32)
    return particle_table("a.jpg", labels, names, grams, grams / 10, resolution, **options)


def test_columns_and_their_order(labels: np.ndarray) -> None:
    assert (
        COLUMNS
        == (
            "baseimg label res class x0 x1 y0 y1 area mass axis_major_length axis_minor_length max_feret_diameter "
            "min_feret_diameter max_inscribed_radius score length_mm width_mm feret_max_mm feret_min_mm "
            "inscribed_diameter_mm equivalent_diameter_mm area_mm2 aspect_ratio circularity convexity angularity edge "
            "fragments"
        ).split()
    )
    found = table(labels)
    assert list(found) == COLUMNS
    assert found["label"].tolist() == [1, 2, 4]  # a hidden one has no row
    assert found["class"].tolist() == ["c0", "c1", "c3"] and found["mass"].tolist() == [0, 1, 3]
    assert (found["baseimg"] == "a.jpg").all() and (found["res"] == 4).all()


def test_boxes_have_rows_as_x_and_measures_are_those_of_the_mask(labels: np.ndarray) -> None:
    found = table(labels)
    for row in found.to_dict("records"):
        rows, columns = np.nonzero(labels == row["label"])
        box = (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)
        assert (row["x0"], row["x1"], row["y0"], row["y1"]) == box
        measured = measure_particle(labels == row["label"])  # not disturbed by the neighbour in its box
        for name, value in measured._asdict().items():
            assert row[name] == pytest.approx(value, rel=1e-9), name


def test_millimetres(labels: np.ndarray) -> None:
    found = table(labels, 4.0).iloc[0]
    for mm, px in (
        ("length_mm", "axis_major_length"),
        ("width_mm", "axis_minor_length"),
        ("feret_max_mm", "max_feret_diameter"),
        ("feret_min_mm", "min_feret_diameter"),
    ):
        assert found[mm] == pytest.approx(found[px] / 4)
    # An ellipse of 2 : 1 with the area of a disc of 40 px, so of 10 mm
    assert found["equivalent_diameter_mm"] == pytest.approx(10, abs=0.1)
    assert found["area_mm2"] == pytest.approx(25 * math.pi, rel=0.02)
    assert found["length_mm"] == pytest.approx(10 * math.sqrt(2), abs=0.15)
    assert found["width_mm"] == pytest.approx(10 / math.sqrt(2), abs=0.15)
    assert found["inscribed_diameter_mm"] == pytest.approx(10 / math.sqrt(2), abs=0.3)
    assert found["aspect_ratio"] == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("resolution", [math.nan, 0.0])
def test_unknown_resolution_gives_no_millimetres_but_everything_else(labels: np.ndarray, resolution: float) -> None:
    found, known = table(labels, resolution), table(labels)
    assert found[MM].isna().all(axis=None)
    rest = [name for name in COLUMNS if name not in (*MM, "res")]
    pd.testing.assert_frame_equal(found[rest], known[rest])


def test_edges() -> None:
    labels = np.zeros((20, 30), np.uint16)
    labels[0, 5] = 1
    labels[5:20, 0:2] = 2
    labels[10, 10:30] = 3
    labels[2:4, 2:4] = 4
    assert table(labels)["edge"].tolist() == ["top", "bottom left", "right", ""]
    assert table(np.ones((3, 3), np.uint16))["edge"].tolist() == ["top bottom left right"]


def test_sizes_of_one_particle_are_in_order() -> None:
    shapes = [ellipse(9, 20, 2), polygon(3, 30, 10)[0], polygon(4, 25, 45, 2)[0], np.ones((1, 4), bool)]
    labels = np.zeros((60, 300), np.uint16)
    for index, shape in enumerate(shapes):
        labels[: shape.shape[0], 70 * index : 70 * index + shape.shape[1]] = shape * (index + 1)
    found = table(labels)
    assert (found["inscribed_diameter_mm"] <= found["feret_min_mm"]).all()
    assert (found["feret_min_mm"] <= found["feret_max_mm"]).all() and (found["width_mm"] <= found["length_mm"]).all()


def test_empty_tables_are_like_others(labels: np.ndarray) -> None:
    empty, full = particle_table("a.jpg", np.zeros((4, 5), np.uint16), [], [], [], 2.0), table(labels)
    assert len(empty) == 0 and list(empty) == COLUMNS
    pd.testing.assert_series_equal(empty.dtypes, full.dtypes)
    pd.testing.assert_frame_equal(pd.concat([empty, full], ignore_index=True), full)


def test_only_hidden_particles() -> None:
    assert len(particle_table("a.jpg", np.zeros((4, 5), np.uint16), ["Rc"], [1.0], [0.9], 2.0)) == 0


def test_a_belt_particle_by_its_mask() -> None:
    mask = ellipse(20)[2:-2, 2:-2]
    row = particle_row(
        mask,
        baseimg="b.png",
        label=7,
        class_name="Rb",
        mass=math.nan,
        score=0.5,
        resolution=10.0,
        origin=(90, 4),
        edges=["left", "top"],
    )
    found = table_of([row | {"belt_x0": 1090, "belt_x1": 1090 + len(mask)}])
    assert list(found) == [*COLUMNS, "belt_x0", "belt_x1"]
    (values,) = found.to_dict("records")
    assert (values["x0"], values["x1"], values["y0"], values["y1"]) == (90, 90 + len(mask), 4, 4 + mask.shape[1])
    assert values["edge"] == "top left" and values["label"] == 7 and math.isnan(values["mass"])
    assert values["equivalent_diameter_mm"] == pytest.approx(2, abs=0.02)


def test_arguments_that_do_not_fit(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="for labels up to 4"):
        particle_table("a.jpg", labels, ["a"] * 3, [1] * 3, [1] * 3, 2.0)
    with pytest.raises(ValueError, match="4 class names, 3 masses"):
        particle_table("a.jpg", labels, ["a"] * 4, [1] * 3, [1] * 4, 2.0)
