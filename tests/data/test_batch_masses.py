"""Grams of batches shared among their particles, and written as a CSV."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramses_d2.data.batch_masses import Batch, measure_particles, parse_batches, share_batch_masses, write_batch_masses
from tests.conftest import edit_csv, refused, write_json

DATA = Path(__file__).parents[2] / "../shared/data"
NAN = float("nan")


def particles(*rows: tuple) -> pd.DataFrame:
    """A table from (baseimg, class, mass, gt_mass) or those and (area, radius, res); indexed like a CSV."""
    columns = ["baseimg", "class", "mass", "gt_mass", "area", "radius", "res"]
    filled = [(*row, *(100.0, 5.0, 10.0)[len(row) - 4 :]) for row in rows]
    table = pd.DataFrame(filled, columns=columns)
    table.index += 2
    return table


def batch(grams: dict, *names: str) -> dict:
    return {"image_names": list(names or ("a.jpg",)), "mass": grams}


ONE = (("a", "Ra", NAN, False),)


# ---- sharing


def test_golden_values() -> None:
    table = particles(("a", "Ra", NAN, False, 100, 5, 10), ("a", "Ra", NAN, False, 200, 6, 10))
    shared, report = share_batch_masses(table, [batch({"Ra": 10})])
    assert shared["F"].to_numpy() == pytest.approx([2.94118] * 2, abs=5e-6)
    assert shared["mass"].to_numpy() == pytest.approx([2.94118, 7.05882], abs=5e-6)
    assert report.to_dict("records") == [
        {
            "batch": 1, "class": "Ra", "how": "shared", "grams_in": 10, "grams_weighed": 0,
            "grams_out": pytest.approx(10), "F": pytest.approx(2.94118, abs=5e-6), "particles": 2, "shared": 2,
            "weighed": 0, "residual": pytest.approx(0, abs=1e-12),
        }
    ]  # fmt: skip
    assert table["mass"].isna().all() and "F" not in table  # the input stays as it was


def test_a_particle_weighed_on_its_own_keeps_its_mass_and_is_taken_off_its_batch() -> None:
    table = particles(
        ("a", "Ra", NAN, False, 100, 5, 10), ("a", "Ra", 3.0, True, 200, 6, 10), ("a", "Ra", 99.0, False, 300, 5, 10)
    )
    shared, report = share_batch_masses(table.assign(F=9.0), [batch({"Ra": 10})])
    assert shared["mass"].to_numpy() == pytest.approx([1.75, 3.0, 5.25])  # 7.0 g in the ratio 1 : 3
    assert shared["gt_mass"].tolist() == [False, True, False]
    assert shared["F"].to_numpy() == pytest.approx([1.75, NAN, 1.75], nan_ok=True)
    assert report[["grams_weighed", "grams_out", "shared", "weighed"]].iloc[0].tolist() == pytest.approx([3, 10, 2, 1])


@pytest.mark.parametrize("unknown", [None, NAN, "NaN", "nan", 0])
def test_all_ways_to_write_that_something_was_not_weighed(unknown: Any) -> None:
    table = particles(*ONE, ("a", "Ra", 2.0, True), ("a", "Ra", 5.0, False), ("a", "Rc", NAN, False))
    shared, report = share_batch_masses(table, [batch({"Ra": unknown, "Rc": 4, "Rg": unknown})])
    assert shared["mass"].to_numpy() == pytest.approx([NAN, 2.0, NAN, 4.0], nan_ok=True)
    assert report[["class", "how"]].to_numpy().tolist() == [["Ra", "not weighed"], ["Rc", "shared"]]
    assert np.isnan(report.at[0, "grams_in"]) and report.at[0, "grams_out"] == 2.0
    if unknown == 0:
        return
    # A particle with gt_mass True but no mass was not weighed: it gets a share and is no longer called weighed
    table = particles(("a", "Ra", unknown, True), ("a", "Ra", unknown, "True"), ("a", "Ra", 2.0, "True"))
    shared, _ = share_batch_masses(table, [batch({"Ra": 6})])
    assert shared["mass"].tolist() == pytest.approx([2, 2, 2]) and shared["gt_mass"].tolist() == [False, False, True]


def test_what_a_batch_does_not_list_is_left_alone_and_reported() -> None:
    table = particles(("other", "Ra", 7.0, False), ("other", "Rc", NAN, False), *ONE, ("a", "Rg", NAN, False))
    shared, report = share_batch_masses(table.assign(F=0.5), [batch({"Ra": 1})])
    assert shared["mass"].to_numpy() == pytest.approx([7, NAN, 1, NAN], nan_ok=True)
    assert shared["F"].to_numpy()[:2] == pytest.approx([0.5, 0.5])
    assert report.loc[report["class"] == "Rg", ["how", "particles"]].iloc[0].tolist() == ["class not in the batch", 1]


def test_coins_get_their_known_mass_only_where_they_were_not_weighed() -> None:
    rows = [("a", NAN, False), ("a", 4.1, True), ("other", NAN, False), ("other", 5.0, False)]
    table = particles(*((image, "Coin", mass, weighed) for image, mass, weighed in rows))
    shared, report = share_batch_masses(table, [batch({"Coin": None})])
    assert shared["mass"].tolist() == [3.92, 4.1, 3.92, 5.0] and report["how"].tolist() == ["mass of a coin"]
    shared, _ = share_batch_masses(table, [batch({"Coin": 8.2})])
    assert shared["mass"].tolist() == pytest.approx([4.1, 4.1, 3.92, 5.0])  # the scale knows better
    shared, _ = share_batch_masses(table.replace("Coin", "5c"), [batch({})], coin_class="5c", coin_mass=3.9)
    assert shared["mass"].tolist() == [3.9, 4.1, 3.9, 5.0]
    with refused("coin mass 0 g"):
        share_batch_masses(table, [batch({"Coin": 1})], coin_mass=0)


def test_images_and_their_resolution() -> None:
    """Names are matched with and without extension; the resolution counts with its cube."""
    table = particles(*ONE, ("b.PNG", "Ra", NAN, False), ("v1.2", "Ra", NAN, False))
    shared, _ = share_batch_masses(table, [batch({"Ra": 3}, "a.jpg", "images/b.png", "v1.2.jpg", "a.jpg")])
    assert shared["mass"].tolist() == pytest.approx([1, 1, 1])
    table = particles(("a", "Ra", NAN, False, 100, 5, 10), ("b", "Ra", NAN, False, 100, 5, 20))
    shared, _ = share_batch_masses(table, [batch({"Ra": 9}, "a.jpg", "b.jpg")])
    assert shared["mass"].to_numpy() == pytest.approx([8, 1])
    assert parse_batches([batch({"Ra": 1, "Rc": "2.5"}, "a.jpg", "b")]) == [Batch(1, ("a", "b"), {"Ra": 1, "Rc": 2.5})]


@pytest.mark.parametrize(
    ("rows", "batches", "words"),
    [
        (ONE, [batch({"Ra": 1}), batch({"Rc": 1}, "b.jpg", "a.png")], "image a is in batches 1 and 2"),
        (ONE, [batch({"Ra": -1})], "batch 1: mass of Ra is -1"),
        (ONE, [batch({"Ra": 1}), batch({"Rc": "much"}, "b")], "batch 2: mass of Rc is 'much'"),
        (ONE, [batch({"Ra": float("inf")})], "batch 1: mass of Ra is inf"),
        (ONE, [batch({"Ra": True})], "batch 1: mass of Ra is True"),
        (ONE, [{"image_names": ["a"]}], "batch 1: needs image_names"),
        (ONE, {"a": 1}, "batches must be a list"),
        (ONE, [batch({"Ra": 1, "Rc": 2})], "batch 1: 2 g of Rc, but its images have no such particle"),
        ((*ONE, ("a", "Ra", 3.0, True)), [batch({"Ra": 2})], "batch 1: 2 g of Ra|1 particles|are 3 g|1 more"),
        ((*ONE, ("a", "Ra", 2.0, True)), [batch({"Ra": 2})], "batch 1: 2 g of Ra|1 more"),
        ((("a", "Ra", 3.0, True),), [batch({"Ra": 2})], "batch 1: 2 g of Ra|all its 1 particles|are 3 g"),
        ((("a", "Ra", 1.5, True),), [batch({"Ra": 2})], "batch 1|all its 1 particles|are 1.5 g"),
    ],
)
def test_faults_of_batches(rows: tuple, batches: list, words: str) -> None:
    with refused("meta.json", *words.split("|")):
        share_batch_masses(particles(*rows), batches, source="meta.json")


def test_faults_of_sizes() -> None:
    for rows, words in (
        ((*ONE, ("a", "Ra", NAN, False, 100, NAN, 10)), "annotations.csv, row 3: radius is nan"),
        ((("a", "Ra", NAN, False, 0, 5, 10),), "annotations.csv, row 2: area is 0"),
    ):
        with refused(words, "--measure"):
            share_batch_masses(particles(*rows), [batch({"Ra": 2})])


def test_two_weighings_may_differ_a_little() -> None:
    table = particles(("a", "Ra", 1.0, True), ("a", "Ra", 1.001, True))
    shared, report = share_batch_masses(table, [batch({"Ra": 2})])
    assert shared["mass"].tolist() == [1.0, 1.001] and report.at[0, "residual"] == pytest.approx(0.0005)
    assert report.at[0, "how"] == "weighed one by one"


ROW = st.tuples(
    st.sampled_from(["a", "b", "c", "d", "outside"]),
    st.sampled_from(["Ra", "Rc", "Rg"]),
    st.one_of(st.none(), st.floats(0.01, 1)),
    st.booleans(),
    *(st.floats(low, high) for low, high in ((1, 1e5), (0.5, 200), (2, 40))),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=40), st.floats(50, 5000), st.permutations(range(4)))
def test_the_masses_of_a_batch_and_class_add_up_to_what_the_scale_said(
    rows: list[tuple], grams: float, order: list[int]
) -> None:
    table = pd.DataFrame(rows, columns=["baseimg", "class", "mass", "gt_mass", "area", "radius", "res"])
    table["gt_mass"] &= table["mass"].notna()
    images = [("a.jpg", "b.jpg"), ("c.jpg",), ("d.jpg",)]
    batches, expected = [], {}
    for number, names in enumerate(images, start=1):
        inside = table[table["baseimg"].isin([name[0] for name in names])]
        totals = {}
        for position, (name, group) in enumerate(inside.groupby("class")):
            if not group["gt_mass"].all():
                totals[name] = expected[number, name] = grams * (1 + order[position])
        batches.append(batch(totals, *names))
    shared, report = share_batch_masses(table, batches)
    number = shared["baseimg"].map({"a": 1, "b": 1, "c": 2, "d": 3})
    for (group, name), total in expected.items():
        assert shared.loc[(number == group) & (shared["class"] == name), "mass"].sum() == pytest.approx(total, rel=1e-9)
    assert (report.loc[report["how"] == "shared", "residual"].abs() < 1e-6).all()
    assert (report["how"] == "shared").sum() == len(expected)
    kept = table["gt_mass"] | number.isna()
    pd.testing.assert_series_equal(shared.loc[kept, "mass"], table.loc[kept, "mass"].astype(float))
    assert (shared["mass"].isna() | (shared["mass"] > 0)).all()


# ---- folders


def test_measured_sizes_of_known_particles() -> None:
    label_map = np.zeros((20, 30), np.uint16)
    label_map[:6, :10] = 1  # in the image's corner: the original's radius is 10.8
    label_map[:6, 10:13] = 7  # touches it
    label_map[10:15, 10:15] = 3
    label_map[12, 12] = 0  # a hole in the middle
    label_map[14, 14] = 5  # in the corner of its box
    area, radius = measure_particles(label_map, [7, 1, 2, 3, 9])
    assert area == pytest.approx([18, 60, np.nan, 23, np.nan], nan_ok=True)
    assert radius == pytest.approx([2, 3, np.nan, np.sqrt(2), np.nan], nan_ok=True)


@pytest.fixture
def weighed(tiny_folder: Callable[..., Path]) -> Path:
    """Two images of six particles each, weighed together; concrete was not weighed."""
    return write_batches(tiny_folder(nan_masses=True), {"brick": 30.0, "glass": "12.5", "concrete": None})


def write_batches(folder: Path, grams: dict, *names: str) -> Path:
    batches = [batch(grams, *(names or ("img0.png", "img1.png")))]
    write_json(folder / "metadata.json", json.loads((folder / "metadata.json").read_text()) | {"batches": batches})
    return folder


def assign(folder: Path, **columns: Any) -> None:
    edit_csv(folder, lambda table: table.assign(**columns))


def write_and_read(folder: Path, **options: Any) -> pd.DataFrame:
    return pd.read_csv(write_batch_masses(folder, force=True, **options)[0])


def test_a_folder_without_radius(weighed: Path) -> None:
    before = (weighed / "annotations.csv").read_bytes()
    output, report = write_batch_masses(weighed)
    assert output == weighed / "annotations-masses.csv" and (weighed / "annotations.csv").read_bytes() == before
    table = pd.read_csv(output)
    grams = table.groupby("class")["mass"].sum(min_count=1)
    assert grams.to_dict() == pytest.approx({"brick": 30, "glass": 12.5, "concrete": np.nan}, nan_ok=True, rel=1e-8)
    known = table[table["class"] != "concrete"]
    expected = known["F"] * known["area"] * 2 * known["radius"] / known["res"] ** 3
    assert known["mass"].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-7)
    assert report["how"].tolist() == ["shared", "not weighed", "shared"]
    assert not [path for path in weighed.iterdir() if "unfinished" in path.name]


def test_only_what_changes_is_written_anew(weighed: Path) -> None:
    text = (weighed / "annotations.csv").read_text().splitlines()
    text[0] += ",note"
    text[1:] = [f"{line},0.50" for line in text[1:]]
    text[1] = text[1].replace(",NaN,False", ",7.250,TRUE")
    (weighed / "annotations.csv").write_text("\n".join(text) + "\n")
    output, _ = write_batch_masses(weighed)
    cells, original = (
        pd.read_csv(path, dtype=str, keep_default_na=False) for path in (output, weighed / "annotations.csv")
    )
    assert cells.columns.tolist() == [*original.columns, "radius", "F"]
    same = [name for name in original.columns if name not in ("mass", "area")]
    pd.testing.assert_frame_equal(cells[same], original[same])
    assert cells.at[0, "mass"] == "7.250" and cells.at[0, "F"] == "NaN" and cells.at[0, "gt_mass"] == "TRUE"


def test_given_sizes_are_used_unless_told_to_measure(weighed: Path) -> None:
    assign(weighed, radius=2.0, area=100, gt_mass=True)  # without a mass, so it was not weighed
    table = write_and_read(weighed)
    assert not table["gt_mass"].any()
    assert (table["radius"] == 2).all() and (table["area"] == 100).all()
    assert table.loc[table["class"] == "brick", "mass"].to_numpy() == pytest.approx([7.5] * 4)
    measured = write_and_read(weighed, measure=True)
    assert (measured["radius"] > 2).all() and measured["area"].nunique() > 1
    assert measured.groupby("class")["mass"].sum()["brick"] == pytest.approx(30)


@pytest.mark.parametrize("radius", [40.0, np.nan])
def test_a_radius_that_cannot_be_is_measured(weighed: Path, caplog: pytest.LogCaptureFixture, radius: float) -> None:
    """The original's distance transform has no border: a particle that fills its box gets too large a radius."""
    right = write_and_read(weighed)
    assign(weighed, radius=[radius, *right["radius"][1:]])
    found = write_and_read(weighed)
    assert ("1 particles have a radius beyond" in caplog.text and "row 2 first" in caplog.text) == (radius == 40)
    known = right["mass"].notna()
    pd.testing.assert_frame_equal(found.loc[known, ["mass", "radius"]], right.loc[known, ["mass", "radius"]])


def test_nothing_that_this_did_not_write_is_replaced(weighed: Path, tmp_path: Path) -> None:
    own, other = weighed / "annotations.csv", tmp_path / "other.csv"
    other.write_text("label,baseimg,class,res\n")

    def check(output: Path, words: str, force: bool = True) -> None:
        with refused(str(output), words):
            write_batch_masses(weighed, output, force=force)

    check(own, "not replaced", force=False)
    check(own, "not replaced")
    check(weighed / "labels/../annotations.csv", "not replaced")
    assign(weighed, F=1.0, radius=2.0)  # now this command could have written it
    (weighed / "labels").rename(weighed / "masks")
    check(own, "not replaced")
    (weighed / "masks").rename(weighed / "labels")
    check(tmp_path, "is a folder")
    check(tmp_path / "no/x.csv", "existing folder")
    check(other, "--force", force=False)
    check(other, "not replaced")
    assert other.read_text() == "label,baseimg,class,res\n"
    output, _ = write_batch_masses(weighed, tmp_path / "new.csv")
    check(output, "--force", force=False)
    write_batch_masses(weighed, output, force=True)


def test_an_image_of_a_batch_that_is_not_annotated(weighed: Path) -> None:
    names = ("img0.png", "img1.png", "img2.png")
    write_batches(weighed, {"brick": 30}, *names)
    with refused("metadata.json, batch 1: image img2"):
        write_batch_masses(weighed)
    (weighed / "labels/img2.png").write_bytes(b"an empty image")
    write_batch_masses(weighed)
    (weighed / "labels/img2.png").unlink()
    write_batches(weighed, {"brick": None}, *names)
    write_batch_masses(weighed, force=True)


def test_faults_of_a_folder(weighed: Path) -> None:
    edit_csv(weighed, lambda table: table.assign(label=table["label"].where(table.index != 3, 77)))
    with refused("annotations.csv, row 5: label 77", "img0.png"):
        write_batch_masses(weighed)
    for content in ({"images": []}, {"batches": []}):
        write_json(weighed / "metadata.json", content)
        with refused("metadata.json: no batches"):
            write_batch_masses(weighed)


@pytest.mark.skipif(not DATA.is_dir(), reason="the real photographs (shared/data) are not at hand")
def test_coins(tmp_path: Path) -> None:
    """Coins weighed as one batch per photograph and class get about the mass of such a coin back."""
    for name in ("images", "labels"):
        (tmp_path / name).symlink_to((DATA / "coins" / name).resolve())
    true = pd.read_csv(DATA / "coins/annotations.csv")
    unknown = true[true["baseimg"].isin(["test_1", "train_3"])].assign(mass="NaN", gt_mass=False)
    unknown.to_csv(tmp_path / "annotations.csv", index=False)
    batches = json.loads((DATA / "coins/metadata.json").read_text())["batches"]
    kept = [each for each in batches if each["image_names"][0] in ("test_1.jpg", "train_3.jpg")]
    write_json(tmp_path / "metadata.json", {"batches": kept})
    known = true[["baseimg", "label", "mass"]]
    table = write_and_read(tmp_path).merge(known, on=["baseimg", "label"], suffixes=("", "_true"))
    assert table["mass"].sum() == pytest.approx(table["mass_true"].sum(), rel=1e-6)
    assert np.median(np.abs(table["mass"] / table["mass_true"] - 1)) < 0.1
