"""The repaired copy: free of what can be repaired, the rest as it was, every change in the log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from ramses_d2.data.checking.check import KINDS, check_folders, convention
from ramses_d2.data.checking.repair import Change, repair_folder
from ramses_d2.data.folder import load_folder
from ramses_d2.data.images import read_image
from ramses_d2.data.splits import load_split
from ramses_d2.errors import RamsesError
from tests.data.checking.damages import BOX, CSV, DAMAGES, LABEL, SWAPPED, A, DataSet, inflict


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def repair(data: DataSet, name: str = "repaired") -> tuple[DataSet, list[Change]]:
    """Write a repaired copy beside a data set."""
    output = data.folder.parent / name
    changes = repair_folder(check_folders([data.folder]).folders[0], output)
    return DataSet(output), changes


REPAIRABLE = [name for name, (kind, *_) in DAMAGES.items() if KINDS[kind].repairable]
OTHERS = ["image missing", "label cut", "label size", "decimal comma", "mass 0"]


@pytest.mark.parametrize("name", [*REPAIRABLE, *OTHERS])
def test_what_can_be_repaired_is(data: DataSet, name: str) -> None:
    kind, _ = inflict(data, name)
    before, found = contents(data.folder), check_folders([data.folder]).findings
    repaired, changes = repair(data)
    assert contents(data.folder) == before
    left = [each.kind for each in check_folders([repaired.folder]).findings]
    assert left == ([] if name in REPAIRABLE else [each.kind for each in found])
    assert bool(changes) or name in OTHERS
    log = pd.read_csv(repaired.folder / "fixes.csv", keep_default_na=False)
    assert len(log) == len(changes) and log.columns.tolist() == ["file", "row", "label", "what", "from", "to"]
    if name in REPAIRABLE:
        load_folder(repaired.folder)
        load_split(repaired.folder / "split.json", "train")


def test_a_good_set_is_copied_byte_for_byte(data: DataSet) -> None:
    for name in ("LICENSE", "images/notes.txt", "labels/colours.csv"):
        (data.folder / name).write_text("kept")
    repaired, changes = repair(data)
    after = contents(repaired.folder)
    assert changes == [] and after.pop("fixes.csv") == b"file,row,label,what,from,to\n"
    assert json.loads(after.pop("fixes.json"))["format"] == "ramses-mended-copy"
    assert after == contents(data.folder)


def test_only_the_wrong_cells_change(data: DataSet) -> None:
    table = data.table.assign(remark="  sch\u00f6n, rund ")
    data.write(table)
    row = data.row(A, 2)
    true = table.loc[row]
    data.set(row, y1=3, area=7, width=9)
    repaired, changes = repair(data)
    pd.testing.assert_frame_equal(repaired.table, table.assign(remark="sch\u00f6n, rund"))
    box = ", ".join(true[["x0", "y0", "x1"]])
    assert changes == [
        Change(CSV, row, 2, "box (x0, y0, x1, y1)", f"{box}, 3", f"{box}, {true['y1']}"),
        Change(CSV, row, 2, "area (area)", "7", true["area"]),
        Change(CSV, row, 2, "size (height, width)", "96, 9", "96, 144"),
    ]


def test_columns_first_becomes_rows_first(data: DataSet) -> None:
    table = data.table
    table.loc[data.row(A, 2), "y1"] = "1234567"
    swapped = table.copy()
    swapped[BOX] = table[SWAPPED].to_numpy()
    data.write(swapped)
    data.label(A).unlink()  # its boxes cannot be compared, and must not stay the other way round
    report = check_folders([data.folder])
    assert [each.kind for each in report.findings] == ["label-image-missing"]
    assert convention(report.folders[0]) == "x0, x1 are columns, y0, y1 are rows"
    repaired, changes = repair(data)
    pd.testing.assert_frame_equal(repaired.table, table)
    assert len(changes) == ((table["x0"] != table["y0"]) | (table["x1"] != table["y1"])).sum()


def test_columns_that_are_missing_are_added(data: DataSet) -> None:
    table = data.table
    data.write(table.drop(columns=[*BOX, "area", "height"]))
    repaired, changes = repair(data)
    pd.testing.assert_frame_equal(repaired.table[table.columns], table)
    added = [change.what.removeprefix("column ").removesuffix(" added") for change in changes]
    assert added == ["x0, y0, x1, y1", "area", "height"]


def test_stray_pixels_and_nameless_particles_become_background(data: DataSet) -> None:
    label_map = data.labels(A)
    data.paint(3, 1, 2)
    data.paint(77, 4, 5)
    repaired, changes = repair(data)
    np.testing.assert_array_equal(repaired.labels(A), label_map)
    assert Image.open(repaired.label(A)).mode == "I;16"
    assert [(change.file, change.label, change.old, change.new) for change in changes] == [
        (LABEL, 77, "20 px", "background"),
        (LABEL, 3, "2 px", "background"),
    ]


@pytest.mark.parametrize("form", ["{}.tif", "images/{}.jpg", "{}.JPG"])
def test_no_pixels_are_lost_to_another_form_of_the_name(data: DataSet, form: str) -> None:
    data.write(data.table.assign(baseimg=data.table["baseimg"].map(form.format)))
    assert check_folders([data.folder]).findings == []
    repaired, changes = repair(data)
    assert changes == [] and repaired.label(A).read_bytes() == data.label(A).read_bytes()


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_no_pixels_are_lost_to_a_mistyped_name(data: DataSet, share: float) -> None:
    """All or a part of the rows: which image they are of is for the user to say."""
    own = data.table.index[data.table["baseimg"] == A]
    table = data.table
    table.loc[own[: int(share * len(own))], "baseimg"] = A.upper()
    data.write(table)
    messages = {each.kind: each.message for each in check_folders([data.folder]).findings}
    assert "image-missing" in messages and repr(A.upper()) in messages["pixels-without-row"]
    repaired, _ = repair(data)
    assert repaired.label(A).read_bytes() == data.label(A).read_bytes()
    # Pixels that are not theirs go as before
    label_map = data.labels("scene_00001")
    label_map[data.background("scene_00001", 4, 5)] = 777
    data.save_labels("scene_00001", label_map)
    _, changes = repair(data, "again")
    assert [change.label for change in changes if change.what == "pixels without row"] == [777]


def test_a_label_image_of_another_size_is_left_alone(data: DataSet) -> None:
    data.paint(3, 1, 2)
    data.save_labels(A, data.labels(A)[:, :-9])
    data.write(data.table.drop(index=data.row(A, 2)))
    repaired, changes = repair(data)
    assert changes == [] and repaired.label(A).read_bytes() == data.label(A).read_bytes()


@pytest.mark.parametrize(("suffix", "orientation"), [(".jpg", tag) for tag in range(2, 9)] + [(".png", 6), (".tif", 8)])
def test_turned_images_are_saved_upright(data: DataSet, suffix: str, orientation: int) -> None:
    path = data.image(A).with_suffix(suffix)
    with Image.open(data.image(A)) as image:
        image.getexif()[0x0112] = orientation
        image.getexif()[0x0110] = "camera"
        image.save(path, exif=image.getexif(), quality=95)
    if suffix != ".jpg":
        data.image(A).unlink()
    stored, shown = data.labels(A), read_image(path)
    repaired, _ = repair(data)
    after = Image.open(repaired.image(A).with_suffix(suffix))
    assert after.getexif().get(0x0112, 1) == 1
    assert after.getexif().get(0x0110) == "camera" or suffix == ".tif"
    assert np.abs(np.asarray(after, float) - shown).mean() < (3 if suffix == ".jpg" else 1e-9)
    if orientation < 5:  # of the same size: there is no telling how the label image lies
        np.testing.assert_array_equal(repaired.labels(A), stored)
    else:
        image = Image.fromarray(stored.astype(np.int32))
        image.getexif()[0x0112] = orientation
        np.testing.assert_array_equal(repaired.labels(A), np.asarray(ImageOps.exif_transpose(image)))
        assert check_folders([repaired.folder]).findings == []


def test_a_stereo_photograph_keeps_the_quality_of_a_photograph(data: DataSet) -> None:
    """A .jpg of some cameras is an MPO file, of two images."""
    with Image.open(data.image(A)) as image:
        image.getexif()[0x0112] = 3
        options = {"exif": image.getexif(), "quality": 95}
        image.save(data.image(A), format="MPO", save_all=True, append_images=[image.copy()], **options)
    repaired, _ = repair(data)
    with Image.open(repaired.image(A)) as after:
        assert after.format == "JPEG" and max(after.quantization[0]) <= 12  # 121 at Pillow's own quality of 75


def test_a_folder_that_is_named_like_an_image_is_reported_and_not_copied(data: DataSet) -> None:
    for kind in ("images", "labels"):
        (data.folder / kind / "x.png").mkdir()
    repaired, changes = repair(data)
    assert changes == [] and not list(repaired.folder.glob("*/x.png"))
    found = [(each.kind, each.file) for each in check_folders([data.folder]).findings]
    assert ("image-unreadable", "images/x.png") in found


def test_a_label_image_to_be_turned_is_compared_with_the_rows_but_not_with_their_boxes(data: DataSet) -> None:
    data.tag(6)
    data.set(data.row(A, 3), x0=70)  # where it will be is not where it is
    data.write(data.table.drop(index=data.row(A, 2)))
    kinds = [each.kind for each in check_folders([data.folder]).findings]
    assert kinds == ["label-not-upright", "pixels-without-row"]
    assert check_folders([repair(data)[0].folder]).findings == []


def test_rows_that_cannot_be_read_stay_in_their_place(data: DataSet) -> None:
    row = data.row(A, 2)
    data.set(row, label="two")
    lines = (data.folder / CSV).read_text().splitlines()
    lines[row] += ",surplus"
    (data.folder / CSV).write_text("\n".join(lines) + "\n")
    repaired, changes = repair(data)
    assert changes == [] and (repaired.folder / CSV).read_text() == (data.folder / CSV).read_text()


def test_a_split_over_several_folders_still_finds_them(data: DataSet) -> None:
    data.set_split(folders={"data": "../data", "other": "../other"})
    repaired, _ = repair(data, "below/repaired")
    before, after = (json.loads((each.folder / "split.json").read_text()) for each in (data, repaired))
    assert after == before | {"folders": {"data": ".", "other": "../../other"}}


def test_nothing_is_overwritten(data: DataSet, tmp_path: Path) -> None:
    checked = check_folders([data.folder]).folders[0]
    output = tmp_path / "out"
    output.mkdir()
    repair_folder(checked, output)  # an empty folder may be filled
    with pytest.raises(RamsesError, match="--force"):
        repair_folder(checked, output)
    repair_folder(checked, output, overwrite=True)
    (output / "fixes.json").unlink()
    for place in (output, data.folder, data.folder / "repaired", tmp_path):
        with pytest.raises(RamsesError, match=str(place)):
            repair_folder(checked, place, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(RamsesError, match="is a file"):
        repair_folder(checked, tmp_path / "file")


def test_a_failure_leaves_nothing_behind(data: DataSet, tmp_path: Path) -> None:
    checked = check_folders([data.folder]).folders[0]
    data.label(A).unlink()
    with pytest.raises(FileNotFoundError):
        repair_folder(checked, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
