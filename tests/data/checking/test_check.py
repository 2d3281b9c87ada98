"""Exactly what is wrong is found, with its file and row: one damage at a time, many, and none at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ramses_d2.data.checking.check import KINDS, check_folders, convention
from ramses_d2.data.checking.contents import Folder
from ramses_d2.data.folder import load_folder, read_annotations
from ramses_d2.data.splits import load_split
from ramses_d2.errors import RamsesError
from tests.data.checking.damages import BOX, CSV, DAMAGES, SWAPPED, A, DataSet, inflict

DATA = Path(__file__).parents[3] / "../shared/data"
TinyFolder = Callable[..., Path]


def kinds(*folders: Path, **options: object) -> list[str]:
    return [each.kind for each in check_folders(folders, **options).findings]


def test_the_good_set_is_silent(data: DataSet) -> None:
    report = check_folders([data.folder])
    assert report.findings == [] and report.errors == 0
    assert convention(report.folders[0]) == "x0, x1 are rows, y0, y1 are columns"


def test_every_kind_has_its_damage() -> None:
    assert {kind for kind, *_ in DAMAGES.values()} == set(KINDS)


@pytest.mark.parametrize("name", DAMAGES)
def test_exactly_the_damage_is_found(data: DataSet, name: str) -> None:
    kind, places = inflict(data, name)
    report = check_folders([data.folder])
    found = [(each.kind, each.file, each.row, each.label) for each in report.findings]
    assert found == [(kind, *place) for place in places]
    for each in report.findings:
        assert each.folder == str(data.folder) and str(data.folder / each.file) in str(each)
        assert each.message and "\n" not in str(each)
        assert each.image is None or each.image in str(each)
        assert each.severity == (
            "warning" if name == "8 bits" else "error" if name == "not annotated" else KINDS[kind].severity
        )
    if not report.errors:  # then training does not stop at the data either
        load_folder(data.folder)
        for subset in ("train", "valid"):
            load_split(data.folder / "split.json", subset)


def test_many_damages_are_all_found(data: DataSet) -> None:
    data.image("scene_00001").unlink()
    label_map = data.labels("scene_00003")
    data.save_labels("scene_00003", np.where(label_map == 2, 0, label_map))
    data.set(data.row("scene_00004", 1), mass=-1, **{"class": "gold"})
    assert {(each.kind, each.row) for each in check_folders([data.folder]).findings} == {
        ("image-missing", data.row("scene_00001", 1)),
        ("row-without-pixels", data.row("scene_00003", 2)),
        ("bad-mass", data.row("scene_00004", 1)),
        ("unknown-class", data.row("scene_00004", 1)),
    }


def test_messages_have_the_numbers(data: DataSet) -> None:
    row = data.table.loc[data.row(A, 2)]
    count = (data.table["baseimg"] == A).sum()
    data.set(data.row(A, 2), y1=7, area=8, height=9)
    data.set(data.row(A, 3), height=9)
    data.write(data.table[(data.table["baseimg"] != A) | (data.table["label"].astype(int) <= 3)])
    messages = [each.message for each in check_folders([data.folder]).findings]
    size, labels, box, area = messages
    assert "9 x 144" in size and "rows: 2" in size and "96 x 144" in size
    assert "rows: 3" in labels and f"particles: {count}" in labels
    assert labels.endswith(", ".join(map(str, range(4, min(count, 13) + 1))) + (" ..." if count > 13 else ""))
    x0, y0, x1, y1 = row[BOX]
    assert f"{x0}, {y0}, {x1}, 7" in box and f"{x0}, {y0}, {x1}, {y1}" in box
    assert "8 px" in area and f"{row['area']} px" in area


def test_boxes_may_be_column_first_or_inclusive(data: DataSet) -> None:
    table = data.table
    table[BOX] = table[SWAPPED].to_numpy()
    table[["x1", "y1"]] = table[["x1", "y1"]].astype(int) - 1
    for written, expected in ((table, "x0, x1 are columns, y0, y1 are rows"), (table.drop(columns=BOX), "no boxes")):
        data.write(written)
        report = check_folders([data.folder])
        assert report.findings == [] and convention(report.folders[0]) == expected


def test_mass_outliers_need_samples_and_distance(data: DataSet) -> None:
    table = data.table
    rng = np.random.default_rng(0)
    # Areal densities of a narrow class: 1 % apart, but outlines are not that exact
    table["mass"] = table["area"].astype(float) / table["res"].astype(float) ** 2 * 0.02 * rng.uniform(0.99, 1.01)
    row = int(table.index[table["class"] == "Rb"][3])
    for factor, outlier in ((1.4, False), (1 / 1.4, False), (2, True), (0.5, True)):
        changed = table.copy()
        changed.loc[row, "mass"] *= factor
        data.write(changed)
        found = [(each.kind, each.row) for each in check_folders([data.folder]).findings]
        assert found == [("mass-outlier", row)] * outlier
    others = table.index[(table["class"] == "Rb") & (table.index != row)]
    for known in (12, 11):
        changed.loc[others[known - 1 :], "mass"] = np.nan
        data.write(changed)
        assert kinds(data.folder) == ["mass-outlier"] * (known == 12)


def test_masses_are_not_blamed_for_a_cut_or_a_wrong_resolution(data: DataSet, another: Callable) -> None:
    _, ((_, row, _),) = inflict(data, "at the border")
    data.scale(row, "mass", 1000)
    assert kinds(data.folder) == ["touches-border"]
    other = another("other")
    table = other.table
    own = table["baseimg"] == A
    table.loc[own, "res"] = (table.loc[own, "res"].astype(float) * 100).astype(str)
    other.write(table)
    assert kinds(other.folder) == ["resolution-outlier"]


@pytest.mark.parametrize("corner", [(0, 50), (60, 50), (30, 0), (30, 92)])
def test_every_border(tiny_folder: TinyFolder, corner: tuple[int, int]) -> None:
    data = DataSet(tiny_folder(sizes=((64, 96),), count=1))
    label_map = data.labels("img0")
    y, x = corner
    for shift, expected in ((0, ["touches-border"]), (1, [])):  # one pixel away from the border
        y, x = y + shift * (corner[0] == 0) - shift * (corner[0] == 60), x + shift * (x == 0) - shift * (x == 92)
        moved = np.where(label_map == 1, 0, label_map)
        moved[y : y + 4, x : x + 4] = 1
        data.save_labels("img0", moved)
        data.set(2, area=16, x0=y, y0=x, x1=y + 4, y1=x + 4)
        assert kinds(data.folder) == expected


def test_two_cameras_are_no_outliers(data: DataSet) -> None:
    table = data.table.assign(mass="nan")
    for images, outliers in ((1, 1), (2, 0)):  # of six
        data.write(table.assign(res=np.where(table["baseimg"] <= f"scene_0000{images}", 28.7, 2.0)))
        assert kinds(data.folder) == ["resolution-outlier"] * outliers
    data.write(table.assign(res=28700))
    assert kinds(data.folder) == ["resolution-outlier"] * 6  # absurd, even if all agree


def test_base_names_with_extension(data: DataSet) -> None:
    data.write(data.table.assign(baseimg=lambda table: table["baseimg"] + ".jpg"))
    assert kinds(data.folder) == []
    data.image(A).unlink()
    assert [(each.kind, each.image) for each in check_folders([data.folder]).findings] == [("image-missing", A)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        *(({"images": [{"file_name": f"{A}.jpg", "res": res}]}, ["bad-resolution"]) for res in ("2.5", -1)),
        ({"images": [{"file_name": f"{A}.jpg", "res": None}]}, []),
        *((content, ["json-unreadable"]) for content in ({"images": [{}]}, {"images": 3}, [])),
    ],
)
def test_metadata(data: DataSet, content: object, expected: list[str]) -> None:
    (data.folder / "metadata.json").write_text(json.dumps(content))
    assert kinds(data.folder) == expected


def test_folders_with_next_to_nothing(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    assert kinds(tiny_folder(count=0)) == []
    (tmp_path / "pictures/images").mkdir(parents=True)
    assert kinds(tmp_path / "pictures") == ["csv-unreadable"]
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / CSV).write_text("label,baseimg,class,res\n1,a,Rc,2\n2,a,Rc,2\n")
    assert kinds(tmp_path / "rows") == ["image-missing"]
    for wrong in (tmp_path / "nothing", tmp_path):
        with pytest.raises(RamsesError, match=str(wrong)):
            check_folders([wrong])


def test_one_cause_is_one_finding(data: DataSet) -> None:
    (data.folder / "metadata.json").unlink()
    table = data.table
    data.save_labels(A, np.zeros_like(data.labels(A)))  # not an empty image of unknown resolution
    assert kinds(data.folder) == ["row-without-pixels"] * (table["baseimg"] == A).sum()
    data.label(A).unlink()
    data.write(table.assign(label=table["label"].mask(table["baseimg"] == A, "?")))  # not an image without rows
    assert set(kinds(data.folder)) == {"bad-value"}


def test_images_of_one_colour_and_different_shape_are_no_copies(tiny_folder: TinyFolder) -> None:
    folder = tiny_folder(count=0)
    (folder / "metadata.json").unlink()
    for name, (width, height) in (("a", (4, 9)), ("b", (9, 4)), ("c", (4, 9))):
        Image.new("RGB", (width, height)).save(folder / f"images/{name}.png")
        Image.fromarray(np.zeros((height, width), np.uint16)).save(folder / f"labels/{name}.png")
    found = [(each.kind, each.image) for each in check_folders([folder]).findings if "resolution" not in each.kind]
    assert found == [("duplicate-picture", "c")]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16", "F", "half"])
def test_label_images_of_every_mode(tiny_folder: TinyFolder, mode: str) -> None:
    """What its rows say is what is seen of it, and its mode is all that is wrong with it."""
    folder = tiny_folder(sizes=((24, 36),), count=1)
    path = folder / "labels/img0.png"
    label_map = np.array(Image.open(path))
    grey, alpha = (Image.fromarray(values.astype(np.uint8)) for values in (label_map, label_map * 0 + 255))
    images = {
        "1": Image.fromarray(label_map > 0),
        "L": grey,
        "P": grey.convert("P"),
        "I;16": Image.fromarray(label_map),
    }
    images |= {"RGB": Image.merge("RGB", [grey] * 3), "RGBA": Image.merge("RGBA", (grey, grey, grey, alpha))}
    images |= {"LA": Image.merge("LA", (grey, alpha)), "F": Image.fromarray(label_map.astype(np.float32))}
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
    table = data.table
    text = check_folders([data.folder]).text()
    assert f"{data.folder}: 6 images, {len(table)} rows" in text and len(text.splitlines()) == 2
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
    last = {"kind": "area-wrong", "severity": "error", "folder": str(data.folder), "file": CSV}
    last |= {"message": report.findings[-1].message, "row": int(table.index[-1])}
    assert content["findings"][-1] == last | {"picture": "scene_00006", "label": int(table["label"].iloc[-1])}


def test_a_report_is_whole_or_not_there(data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    report = check_folders([data.folder])
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="full"):
        report.write(tmp_path / "check.json")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.skipif(not DATA.is_dir(), reason="the real photographs (shared/data) are not at hand")
def test_real_photographs() -> None:
    report = check_folders([DATA / "coins", DATA / "gravel"])
    # 91 grains of gravel are cut by the border; the sliver of one lies apart from it
    counts = pd.Series([each.kind for each in report.findings]).value_counts().to_dict()
    assert counts == {"touches-border": 91, "specks": 1}
    assert {Path(each.folder).name for each in report.findings} == {"gravel"}


# annotations.csv read as far as possible

HEADER = "label,baseimg,class,res,mass,gt_mass,x0"


def read(folder: Path, *rows: str, header: str = HEADER) -> Folder:
    (folder / CSV).write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return Folder(folder)


def test_a_good_file_is_read_as_by_the_strict_reader(tmp_path: Path) -> None:
    folder = read(tmp_path, "1,a,Rc,2.5,nan,False,3", "", " 2 ,a,NA,2.5,1e-1,True,")
    assert folder.found == [] and folder.surplus == {}
    pd.testing.assert_frame_equal(folder.rows, read_annotations(tmp_path / CSV)[folder.rows.columns], check_dtype=False)
    assert folder.text["label"].to_dict() == {2: "1", 4: "2"}


def test_all_errors_are_found_at_once(tmp_path: Path) -> None:
    rows = ("1,a,Rc,2.5,1,False,3", "x,a,Rc,0,-1,maybe,here", "2,a,Rc,2,5,1,True,3", "70000,,,,inf,,", "3,a,Rc,2.5,,,4")
    folder = read(tmp_path, *rows, "4,a,Rc,2.5,,x,4")
    assert [(each.row, each.kind, each.message.split(" ")[0]) for each in folder.found] == [
        *((3, "bad-value", name) for name in ("label", "x0", "gt_mass")),
        *((3, "bad-resolution", "res"), (3, "bad-mass", "mass"), (4, "bad-row", "has")),
        *((5, "bad-value", name) for name in ("baseimg", "class", "label")),
        *((5, "bad-resolution", "res"), (5, "bad-mass", "mass"), (7, "bad-value", "gt_mass")),
    ]
    messages = [each.message for each in folder.found]
    assert messages[0].startswith("label is 'x'; ") and messages[8].startswith("label is 70000; ")
    assert messages[5].startswith("has 8 cells, the header has 7")
    assert folder.surplus == {4: ["2", "a", "Rc", "2", "5", "1", "True", "3"]}
    assert folder.text.index.tolist() == [2, 3, 5, 6, 7] and folder.unusable == {"a": 1, "": 2}
    assert folder.rows.index.tolist() == [2, 6, 7] and not folder.rows.loc[7, "gt_mass"]
    assert folder.rows.loc[6, ["label", "x0"]].tolist() == [3, 4]


def test_surplus_cells_and_missing_columns(tmp_path: Path) -> None:
    folder = read(tmp_path, "1,a,Rc,2,5,0,1,True", "2,a,Rc,2,5,0,1,True")
    assert list(folder.surplus) == [2, 3] and len(folder.rows) == 0
    found = read(tmp_path, "1,a", "0,a", header="label,baseimg").found
    assert [(each.row, each.message.split(" ")[1]) for each in found] == [(None, "class"), (None, "res"), (3, "is")]
    (finding,) = read(tmp_path, "a,Rc,2", header="baseimg,class,res").found
    assert finding.kind == "csv-unreadable" and "column label" in finding.message


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'label,baseimg\n1,"a\n', b"label;baseimg\n1;a\n"])
def test_no_table_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CSV).write_bytes(content)
    folder = Folder(tmp_path)
    assert [each.kind for each in folder.found] == ["csv-unreadable"]
    assert folder.text is None and folder.rows.empty


def test_further_columns_of_any_name(data: DataSet) -> None:
    data.write(data.table.assign(left=7, row=1, seen="no", turned=1))
    assert kinds(data.folder) == []


# The same image on both sides of a split, and in several folders


def write_split(path: Path, folders: dict[str, str], subsets: dict[str, list[str]]) -> Path:
    ours = {"format": "ramses-split", "version": 1, "classes": ["Ra", "Rb", "Rc"]}
    path.write_text(json.dumps(ours | {"folders": folders, "subsets": subsets}))
    return path


def places(folders: list[Path], split: Path | None = None) -> list[tuple]:
    return [(each.kind, Path(each.folder).name, each.file) for each in check_folders(folders, split=split).findings]


APART = ["train valid", "train test", "val Test", "fold0-train fold0-valid", "fold0-train test", "training validation"]
APART += ["train Validation", "train dev", "training testing", "fold0_training fold0_val"]
# Every image is trained on in all folds but one
TOGETHER = ["fold0-train fold1-valid", "fold0-train fold1-train", "training_a validation_b", "validation dev"]
TOGETHER += ["train device", "train favourites"]


@pytest.mark.parametrize("names", [*APART, *TOGETHER])
def test_which_subsets_must_be_apart(tiny_folder: TinyFolder, names: str) -> None:
    one, other = names.split()
    folder = tiny_folder(sizes=((24, 36), (36, 24)), count=1, classes=("Ra",))
    write_split(folder / "split.json", {"k": "."}, {one: ["k/img0"] * 2, other: ["k/img1", "k/img0"]})
    findings = check_folders([folder]).findings
    assert [each.kind for each in findings] == ["in-two-subsets"] * (names in APART)
    assert names in TOGETHER or findings[0].message == f"img0 is in {one} (2x) and in {other} (1x)"


def test_a_copy_is_named_where_it_is_not_trained_on(data: DataSet) -> None:
    data.copy_image(A, "z_copy")
    for valid, train in ((A, "z_copy"), ("z_copy", A)):
        write_split(data.folder / "split.json", {"k": "."}, {"valid": [f"k/{valid}"], "train": [f"k/{train}"]})
        (leak,) = check_folders([data.folder]).findings
        assert (leak.kind, leak.image) == ("copy-in-two-subsets", valid)
        assert leak.message.startswith("in valid, ") and leak.message.endswith(" in train")
        assert f"images/{train}." in leak.message


def test_folders_that_share_images(data: DataSet, another: Callable[[str], DataSet], tmp_path: Path) -> None:
    other = another("other")
    for base in ("scene_00001", "scene_00003", "scene_00004", "scene_00005", "scene_00006"):
        other.image(base).unlink()
        other.label(base).unlink()
    other.write(other.table.query("baseimg == @A"))
    (other.folder / "split.json").unlink()
    folders = [data.folder, other.folder]
    assert places(folders) == [("duplicate-picture", "other", f"images/{A}.jpg")]
    assert places(folders[:1] * 2) == []  # the same folder twice is one folder
    split = write_split(tmp_path / "both.json", {"d": "data", "o": "other"}, {"train": [f"d/{A}"], "valid": [f"o/{A}"]})
    assert places(folders, split) == [("copy-in-two-subsets", "other", f"images/{A}.jpg")]
    assert places(folders[:1], split) == []  # a folder that is not checked cannot be looked into
    for path in (other.folder / "images").iterdir():  # the same name alone is no copy
        Image.open(path).point(lambda value: 255 - value).save(path)
    assert places(folders) == []


def test_a_copy_with_other_metadata_and_compression_is_found(data: DataSet) -> None:
    Image.open(data.image(A)).save(data.image("z").with_suffix(".tif"), compression="tiff_lzw", dpi=(300, 300))
    shutil.copy(data.label(A), data.label("z"))
    assert "duplicate-picture" in kinds(data.folder)


def test_a_split_of_the_original(data: DataSet, tmp_path: Path) -> None:
    content = {"cls_to_idx": {"Ra": 1, "Rb": 2, "Rc": 3}, "train": [A, A, "scene_00001"], "valid": [A]}
    (tmp_path / "old.json").write_text(json.dumps(content))
    (finding,) = check_folders([data.folder], split=tmp_path / "old.json").findings
    assert (finding.kind, finding.image, finding.file) == ("in-two-subsets", A, str(tmp_path / "old.json"))


def test_class_lists(data: DataSet) -> None:
    rows = set(data.table.index[data.table["class"] == "Rc"].tolist())
    report = check_folders([data.folder], class_names=["Ra", "Rb"])
    assert {each.row for each in report.findings} == rows
    assert "'Rc'" in report.findings[0].message and "(Ra, Rb)" in report.findings[0].message
    # Only the images that a split names must fit its list
    data.set_split(classes=["Ra", "Rb"], subsets={"train": [f"data/{A}"]})
    findings = check_folders([data.folder]).findings
    assert {each.kind for each in findings} == {"unknown-class"} and {each.image for each in findings} == {A}
    assert "split.json" in findings[0].message


def test_an_image_that_no_split_wants_need_not_be_annotated(data: DataSet) -> None:
    inflict(data, "not annotated")
    (data.folder / "split.json").unlink()
    assert [each.severity for each in check_folders([data.folder]).findings] == ["warning"]


@pytest.mark.parametrize("subsets", [{"train": "data/a"}, {"train": [1]}, {"train": ["a"]}, {"train": ["other/a"]}])
def test_splits_that_cannot_be_used(tiny_folder: TinyFolder, tmp_path: Path, subsets: dict) -> None:
    folder = tiny_folder("data", count=0)
    split = write_split(tmp_path / "s.json", {"data": "data"}, subsets)
    with pytest.raises(RamsesError, match="s.json: "):
        check_folders([folder], split=split)
    shutil.copy(split, folder / "split.json")
    assert places([folder]) == [("json-unreadable", "data", "split.json")]
    with pytest.raises(RamsesError, match="nowhere.json"):
        check_folders([folder], split=tmp_path / "nowhere.json")
