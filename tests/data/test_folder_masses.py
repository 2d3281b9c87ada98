"""Weighing a folder: what is measured in the label images, what is written, and what is never replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ramses_d2.data.batch_masses import measure_particles, write_batch_masses
from ramses_d2.errors import RamsesError

Folder = Callable[..., Path]
DATA = Path(__file__).parents[2] / "../shared/data"


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
def weighed(tiny_folder: Folder) -> Path:
    """Two images of six particles each, weighed together; concrete was not weighed."""
    return write_batches(tiny_folder(nan_masses=True), {"brick": 30.0, "glass": "12.5", "concrete": None})


def write_batches(folder: Path, grams: dict, *names: str) -> Path:
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["batches"] = [{"image_names": list(names or ("img0.png", "img1.png")), "mass": grams}]
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


def edit(folder: Path, **columns: object) -> pd.DataFrame:
    table = pd.read_csv(folder / "annotations.csv").assign(**columns)
    table.to_csv(folder / "annotations.csv", index=False)
    return table


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
    cells = pd.read_csv(output, dtype=str, keep_default_na=False)
    original = pd.read_csv(weighed / "annotations.csv", dtype=str, keep_default_na=False)
    assert cells.columns.tolist() == [*original.columns, "radius", "F"]
    same = [name for name in original.columns if name not in ("mass", "area")]
    pd.testing.assert_frame_equal(cells[same], original[same])
    assert cells.at[0, "mass"] == "7.250" and cells.at[0, "F"] == "NaN" and cells.at[0, "gt_mass"] == "TRUE"


def test_given_sizes_are_used_unless_told_to_measure(weighed: Path) -> None:
    edit(weighed, radius=2.0, area=100)
    table = pd.read_csv(write_batch_masses(weighed)[0])
    assert (table["radius"] == 2).all() and (table["area"] == 100).all()
    assert table.loc[table["class"] == "brick", "mass"].to_numpy() == pytest.approx([7.5] * 4)
    measured = pd.read_csv(write_batch_masses(weighed, measure=True, force=True)[0])
    assert (measured["radius"] > 2).all() and measured["area"].nunique() > 1
    assert measured.groupby("class")["mass"].sum()["brick"] == pytest.approx(30)


def test_an_impossible_radius_is_measured(weighed: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The original's distance transform has no border: a particle that fills its box gets too large a radius."""
    right = pd.read_csv(write_batch_masses(weighed)[0])
    edit(weighed, radius=[40.0, *right["radius"][1:]])
    wrong = pd.read_csv(write_batch_masses(weighed, force=True)[0])
    assert "1 particles have a radius beyond" in caplog.text and "row 2 first" in caplog.text
    known = right["mass"].notna()
    pd.testing.assert_frame_equal(wrong.loc[known, ["mass", "radius"]], right.loc[known, ["mass", "radius"]])


def test_a_blank_radius_is_measured(weighed: Path) -> None:
    right = pd.read_csv(write_batch_masses(weighed)[0])
    edit(weighed, radius=[np.nan, *right["radius"][1:]])
    table = pd.read_csv(write_batch_masses(weighed, force=True)[0])
    pd.testing.assert_series_equal(table["mass"], right["mass"])


def test_nothing_that_this_did_not_write_is_replaced(weighed: Path, tmp_path: Path) -> None:
    def message(output: Path, **options: bool) -> str:
        with pytest.raises(RamsesError) as error:
            write_batch_masses(weighed, output, **options)
        return str(error.value)

    own = weighed / "annotations.csv"
    assert "not replaced" in message(own) and "not replaced" in message(own, force=True)
    assert "not replaced" in message(weighed / "labels/../annotations.csv", force=True)
    edit(weighed, F=1.0, radius=2.0)  # now this command could have written it
    (weighed / "labels").rename(weighed / "masks")
    assert "not replaced" in message(own, force=True)
    (weighed / "masks").rename(weighed / "labels")
    assert "existing folder" in message(tmp_path, force=True) and "existing folder" in message(tmp_path / "no/x.csv")
    other = tmp_path / "other.csv"
    other.write_text("label,baseimg,class,res\n")
    assert "--force" in message(other) and "not replaced" in message(other, force=True)
    assert other.read_text() == "label,baseimg,class,res\n"
    output, _ = write_batch_masses(weighed, tmp_path / "new.csv")
    assert "--force" in message(output)
    write_batch_masses(weighed, output, force=True)


def test_a_image_of_a_batch_that_is_not_annotated(weighed: Path) -> None:
    names = ("img0.png", "img1.png", "img2.png")
    write_batches(weighed, {"brick": 30}, *names)
    with pytest.raises(RamsesError, match="metadata.json, batch 1: image img2 has neither rows nor a label image"):
        write_batch_masses(weighed)
    (weighed / "labels/img2.png").write_bytes(b"an empty picture")
    write_batch_masses(weighed)
    (weighed / "labels/img2.png").unlink()
    write_batches(weighed, {"brick": None}, *names)
    write_batch_masses(weighed, force=True)


def test_a_row_without_pixels(weighed: Path) -> None:
    table = edit(weighed)
    table.at[3, "label"] = 77
    table.to_csv(weighed / "annotations.csv", index=False)
    with pytest.raises(RamsesError, match="row 5: label 77 has no pixel in .*img0.png"):
        write_batch_masses(weighed)


@pytest.mark.parametrize("metadata", ['{"images": []}', '{"batches": []}', "[]"])
def test_no_batches(weighed: Path, metadata: str) -> None:
    (weighed / "metadata.json").write_text(metadata)
    with pytest.raises(RamsesError, match="metadata.json: no batches"):
        write_batch_masses(weighed)


@pytest.mark.skipif(not DATA.is_dir(), reason="the real photographs (shared/data) are not at hand")
def test_coins(tmp_path: Path) -> None:
    """Coins weighed as one batch per photograph and class get about the mass of such a coin back."""
    folder = tmp_path / "coins"
    folder.mkdir()
    for name in ("images", "labels", "metadata.json"):
        (folder / name).symlink_to((DATA / "coins" / name).resolve())
    true = pd.read_csv(DATA / "coins/annotations.csv")
    true[true["baseimg"].isin(["test_1", "train_3"])].assign(mass="NaN", gt_mass=False).to_csv(
        folder / "annotations.csv", index=False
    )
    metadata = json.loads((DATA / "coins/metadata.json").read_text())
    kept = [batch for batch in metadata["batches"] if batch["image_names"][0] in ("test_1.jpg", "train_3.jpg")]
    (folder / "metadata.json").unlink()
    (folder / "metadata.json").write_text(json.dumps({"batches": kept}))
    table = pd.read_csv(write_batch_masses(folder)[0]).merge(
        true[["baseimg", "label", "mass"]], on=["baseimg", "label"], suffixes=("", "_true")
    )
    assert table["mass"].sum() == pytest.approx(table["mass_true"].sum(), rel=1e-6)
    assert np.median(np.abs(table["mass"] / table["mass_true"] - 1)) < 0.1
