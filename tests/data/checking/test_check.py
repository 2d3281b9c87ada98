"""Checking as a whole: many damages at once, what the messages say, outliers, empty folders, real photographs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ramses_d2.data.checking.check import check_folders, convention
from ramses_d2.errors import RamsesError
from tests.data.checking import damages_of_rows  # noqa: F401  they register themselves
from tests.data.checking.data_set import DAMAGES, A, DataSet

DATA = Path(__file__).parents[3] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real photographs (shared/data) are not at hand")


def messages(data: DataSet) -> list[str]:
    return [each.message for each in check_folders([data.folder]).findings]


def test_eight_rows_for_thirty_particles(data: DataSet) -> None:
    table = data.table
    count = (table["baseimg"] == A).sum()
    data.write(table[(table["baseimg"] != A) | (table["label"].astype(int) <= 3)])
    rest = ", ".join(map(str, range(4, count + 1)))
    assert messages(data) == [f"rows: 3, particles: {count}; labels without row: {rest}"]


def test_messages_say_what_is_there_and_what_should_be(data: DataSet) -> None:
    row = data.table.loc[data.row(A, 2)]
    x0, y0, x1, y1 = row[["x0", "y0", "x1", "y1"]]
    data.set(data.row(A, 2), y1=7, area=8, height=9)
    data.set(data.row(A, 3), height=9)
    assert messages(data) == [
        "height x width is 9 x 144 (rows: 2), the image is 96 x 144 px",
        f"x0, y0, x1, y1 are {x0}, {y0}, {x1}, 7; the pixels say {x0}, {y0}, {x1}, {y1}",
        f"area is 8 px, the label image has {row['area']} px",
    ]


def test_boxes_may_be_column_first_or_inclusive(data: DataSet) -> None:
    table = data.table
    table[["x0", "y0", "x1", "y1"]] = table[["y0", "x0", "y1", "x1"]].to_numpy()
    table[["x1", "y1"]] = table[["x1", "y1"]].astype(int) - 1
    data.write(table)
    report = check_folders([data.folder])
    assert report.findings == []
    assert convention(report.folders[0]) == "x0, x1 are columns, y0, y1 are rows"
    data.write(table.drop(columns=["x0", "y0", "x1", "y1"]))
    report = check_folders([data.folder])
    assert report.findings == [] and convention(report.folders[0]) == "no boxes"


def test_many_damages_are_all_found(data: DataSet) -> None:
    data.image("scene_00001").unlink()
    label_map = data.labels("scene_00003")
    data.save_labels("scene_00003", np.where(label_map == 2, 0, label_map))
    data.set(data.row("scene_00004", 1), mass=-1, **{"class": "gold"})
    found = {(each.kind, each.row) for each in check_folders([data.folder]).findings}
    assert found == {
        ("image-missing", data.row("scene_00001", 1)),
        ("row-without-pixels", data.row("scene_00003", 2)),
        ("bad-mass", data.row("scene_00004", 1)),
        ("unknown-class", data.row("scene_00004", 1)),
    }


def test_mass_outliers_need_samples_and_distance(data: DataSet) -> None:
    table = data.table
    rng = np.random.default_rng(0)
    # Areal densities of a narrow class: 1 % apart, but nobody outlines that exactly
    table["mass"] = table["area"].astype(float) / table["res"].astype(float) ** 2 * 0.02 * rng.uniform(0.99, 1.01)
    row = int(table.index[table["class"] == "Rb"][3])
    for factor, outlier in ((1.4, False), (1 / 1.4, False), (2, True), (0.5, True)):
        changed = table.copy()
        changed.loc[row, "mass"] *= factor
        data.write(changed)
        assert [(each.kind, each.row) for each in check_folders([data.folder]).findings] == (
            [("mass-outlier", row)] if outlier else []
        )
    others = table.index[(table["class"] == "Rb") & (table.index != row)]
    changed.loc[others[10:], "mass"] = np.nan  # 11 known masses
    data.write(changed)
    assert check_folders([data.folder]).findings == []


@pytest.mark.parametrize("corner", [(0, 50), (60, 50), (30, 0), (30, 92)])
def test_every_border(tiny_folder: Callable[..., Path], corner: tuple[int, int]) -> None:
    folder = tiny_folder(sizes=((64, 96),), count=1)
    data = DataSet(folder)
    label_map = data.labels("img0")
    y, x = corner
    for shift, findings in ((0, ["touches-border"]), (1, [])):  # one pixel away from the border
        y, x = y + shift * (corner[0] == 0) - shift * (corner[0] == 60), x + shift * (x == 0) - shift * (x == 92)
        moved = np.where(label_map == 1, 0, label_map)
        moved[y : y + 4, x : x + 4] = 1
        data.save_labels("img0", moved)
        data.set(2, area=16, x0=y, y0=x, x1=y + 4, y1=x + 4)
        assert [each.kind for each in check_folders([folder]).findings] == findings


def test_two_cameras_are_no_outliers(data: DataSet) -> None:
    table = data.table.assign(mass="nan")
    for images, outliers in ((1, 1), (2, 0)):  # of six
        own = table["baseimg"] <= f"scene_0000{images}"
        data.write(table.assign(res=np.where(own, 28.7, 2.0)))
        kinds = [each.kind for each in check_folders([data.folder]).findings]
        assert kinds == ["resolution-outlier"] * outliers
    data.write(table.assign(res=28700))
    assert len(check_folders([data.folder]).findings) == 6  # absurd, even if all agree


def test_a_wrong_resolution_is_not_blamed_on_the_masses(data: DataSet) -> None:
    table = data.table
    own = table["baseimg"] == A
    table.loc[own, "res"] = (table.loc[own, "res"].astype(float) * 100).astype(str)
    data.write(table)
    assert [each.kind for each in check_folders([data.folder]).findings] == ["resolution-outlier"]


def test_base_names_with_extension(data: DataSet) -> None:
    data.write(data.table.assign(baseimg=lambda table: table["baseimg"] + ".jpg"))
    assert check_folders([data.folder]).findings == []
    data.image(A).unlink()
    assert [(each.kind, each.image) for each in check_folders([data.folder]).findings] == [("image-missing", A)]


def test_metadata_resolutions(data: DataSet) -> None:
    path = data.folder / "metadata.json"
    for value, count in (("2.5", 1), (-1, 1), (None, 0)):
        path.write_text(json.dumps({"images": [{"file_name": f"{A}.jpg", "res": value}]}))
        assert [each.kind for each in check_folders([data.folder]).findings] == ["bad-resolution"] * count
    for content in ({"images": [{}]}, {"images": 3}, []):
        path.write_text(json.dumps(content))
        assert [each.kind for each in check_folders([data.folder]).findings] == ["json-unreadable"]


def test_folders_with_next_to_nothing(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    assert check_folders([tiny_folder(count=0)]).findings == []
    folder = tmp_path / "pictures"
    (folder / "images").mkdir(parents=True)
    assert [each.kind for each in check_folders([folder]).findings] == ["csv-unreadable"]
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "annotations.csv").write_text("label,baseimg,class,res\n1,a,Rc,2\n2,a,Rc,2\n")
    assert [each.kind for each in check_folders([folder]).findings] == ["image-missing"]
    for wrong, message in ((tmp_path / "nothing", "no such folder"), (tmp_path, "neither annotations.csv nor images")):
        with pytest.raises(RamsesError, match=message):
            check_folders([wrong])


def test_one_cause_is_one_finding(data: DataSet) -> None:
    (data.folder / "metadata.json").unlink()
    table = data.table
    data.save_labels(A, np.zeros_like(data.labels(A)))  # not an empty image of unknown resolution
    findings = check_folders([data.folder]).findings
    assert [each.kind for each in findings] == ["row-without-pixels"] * (table["baseimg"] == A).sum()
    data.label(A).unlink()
    data.write(table.assign(label=table["label"].mask(table["baseimg"] == A, "?")))  # not an image without rows
    assert {each.kind for each in check_folders([data.folder]).findings} == {"bad-value"}


def test_the_mass_of_a_cut_particle_is_not_judged_by_what_is_seen_of_it(data: DataSet) -> None:
    _, inflict = DAMAGES["particle_at_the_border"]
    ((_, row, _),) = inflict(data)
    data.set(row, mass=float(data.table.loc[row, "mass"]) * 1000)
    assert [each.kind for each in check_folders([data.folder]).findings] == ["touches-border"]


def test_images_of_one_colour_and_different_shape_are_no_copies(tiny_folder: Callable[..., Path]) -> None:
    folder = tiny_folder(count=0)
    for name, shape in (("a", (4, 9)), ("b", (9, 4)), ("c", (4, 9))):
        Image.new("RGB", shape).save(folder / f"images/{name}.png")
        Image.fromarray(np.zeros(shape[::-1], np.uint16)).save(folder / f"labels/{name}.png")
    (folder / "metadata.json").unlink()
    found = [(each.kind, each.image) for each in check_folders([folder]).findings if "resolution" not in each.kind]
    assert found == [("duplicate-picture", "c")]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16", "F", "half"])
def test_label_images_of_every_mode(tiny_folder: Callable[..., Path], mode: str) -> None:
    """What its rows say is what is seen of it, and it is all that is wrong with it."""
    folder = tiny_folder(sizes=((24, 36),), count=1)
    path = folder / "labels/img0.png"
    label_map = np.array(Image.open(path))
    grey = Image.fromarray(label_map.astype(np.uint8))
    alpha = Image.fromarray(np.full(label_map.shape, 255, np.uint8))
    images = {
        "1": Image.fromarray(label_map > 0),
        "L": grey,
        "P": grey.convert("P"),
        "LA": Image.merge("LA", (grey, alpha)),
    }
    images |= {"RGB": Image.merge("RGB", [grey] * 3), "RGBA": Image.merge("RGBA", (grey, grey, grey, alpha))}
    images |= {"I;16": Image.fromarray(label_map), "F": Image.fromarray(label_map.astype(np.float32))}
    images["half"] = Image.fromarray(label_map.astype(np.float32) / 2)
    images[mode].save(path, format="TIFF" if mode in ("F", "half") else "PNG")
    found = [(each.kind, each.severity) for each in check_folders([folder]).findings]
    expected = {"I;16": [], "L": [("label-not-uint16", "warning")], "half": [("label-coloured", "error")]}
    assert found == expected.get(mode, [("label-not-uint16", "error")])


def test_the_number_of_workers_changes_nothing(data: DataSet) -> None:
    (one,), (many,) = (check_folders([data.folder], workers=workers).folders for workers in (1, 5))
    pd.testing.assert_frame_equal(one.rows, many.rows)
    pd.testing.assert_frame_equal(one.images.drop(columns="particles"), many.images.drop(columns="particles"))
    with pytest.raises(RamsesError, match="workers 0"):
        check_folders([data.folder], workers=0)


def test_text_and_json(data: DataSet, tmp_path: Path) -> None:
    report = check_folders([data.folder])
    assert report.text().splitlines() == [
        f"{data.folder}: 6 images, {len(data.table)} rows, boxes: x0, x1 are rows, y0, y1 are columns",
        "nothing to complain about",
    ]
    table = data.table
    data.write(table.assign(area=1))
    data.set(2, mass=1e6)
    report = check_folders([data.folder])
    text = report.text(show=4)
    assert text.count("area is 1 px") == 4 and f"... and {len(table) - 4} more" in text
    assert text.index("area-wrong") < text.index("mass-outlier")
    report.write(tmp_path / "check.json")
    content = json.loads((tmp_path / "check.json").read_text())
    assert (content["errors"], content["warnings"]) == (len(table), 1)
    assert content["folders"][0]["pictures"] == 6
    assert content["findings"][-1] == {
        "kind": "area-wrong",
        "severity": "error",
        "folder": str(data.folder),
        "file": "annotations.csv",
        "message": report.findings[-1].message,
        "row": int(table.index[-1]),
        "picture": "scene_00006",
        "label": int(table["label"].iloc[-1]),
    }


def test_a_report_is_whole_or_not_there(data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    report = check_folders([data.folder])
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="full"):
        report.write(tmp_path / "check.json")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@needs_data
def test_real_photographs() -> None:
    report = check_folders([DATA / "coins", DATA / "gravel"])
    counts = pd.Series([each.kind for each in report.findings]).value_counts().to_dict()
    # 91 grains of gravel are cut by the border; the sliver of one lies apart from it
    assert counts == {"touches-border": 91, "specks": 1}
    assert {Path(each.folder).name for each in report.findings} == {"gravel"}
