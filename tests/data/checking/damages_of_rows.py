"""Damage to rows, to pixels, and to the agreement of both. Every function says where it is to be found."""

from __future__ import annotations

import json

import numpy as np

from tests.data.checking.data_set import A, DataSet, Where, damage


@damage("row-without-pixels")
def row_without_pixels(data: DataSet) -> list[Where]:
    label_map = data.labels(A)
    data.save_labels(A, np.where(label_map == 4, 0, label_map))
    return [("annotations.csv", data.row(A, 4), 4)]


@damage("pixels-without-row")
def pixels_without_rows(data: DataSet) -> list[Where]:
    table = data.table
    gone = (table["baseimg"] == A) & ~table["label"].isin(["1", "2", "3"])
    data.write(table[~gone])
    return [(f"labels/{A}.png", None, None)]


@damage("pixels-without-row")
def pixels_without_one_row(data: DataSet) -> list[Where]:
    data.write(data.table.drop(index=data.row(A, 5)))
    return [(f"labels/{A}.png", None, 5)]


@damage("pixels-without-row")
def no_row_at_all(data: DataSet) -> list[Where]:
    data.write(data.table.query("baseimg != @A"))
    return [(f"labels/{A}.png", None, None)]


@damage("duplicate-row")
def duplicate_row(data: DataSet) -> list[Where]:
    row = data.append(A, 2, mass=5, area=1, x0=0, **{"class": "Rc"})
    return [("annotations.csv", row, 2)]


@damage("touches-border")
def particle_at_the_border(data: DataSet) -> list[Where]:
    label_map = data.labels(A)
    top, column = np.argwhere(label_map)[0]  # the uppermost pixel of all: nothing is above it
    label = int(label_map[top, column])
    label_map[:top, column] = label
    data.save_labels(A, label_map)
    row = data.row(A, label)
    data.set(row, x0=0, area=np.count_nonzero(label_map == label))
    return [("annotations.csv", row, label)]


@damage("disconnected")
def particle_of_two_parts(data: DataSet) -> list[Where]:
    label_map = data.labels(A)
    label_map[data.background(A, 5, 6)] = 3
    data.save_labels(A, label_map)
    return [("annotations.csv", data.row(A, 3), 3)]


@damage("specks")
def stray_pixels(data: DataSet) -> list[Where]:
    label_map = data.labels(A)
    label_map[data.background(A, 1, 2)] = 3
    data.save_labels(A, label_map)
    return [("annotations.csv", data.row(A, 3), 3)]


@damage("tiny-particle")
def particle_of_four_pixels(data: DataSet) -> list[Where]:
    label_map = data.labels(A)
    y, x = data.background(A, 2, 2)
    label_map[y, x] = 99
    data.save_labels(A, label_map)
    row = data.append(A, 2, label=99, area=4, x0=y.start, x1=y.stop, y0=x.start, y1=x.stop, mass="nan")
    return [("annotations.csv", row, 99)]


@damage("box-wrong")
def box_of_one_row_wrong(data: DataSet) -> list[Where]:
    row = data.row(A, 2)
    data.set(row, y1=int(data.table.loc[row, "y1"]) + 7)
    return [("annotations.csv", row, 2)]


@damage("box-wrong")
def box_of_one_row_swapped(data: DataSet) -> list[Where]:
    row = data.row(A, 2)
    x0, y0, x1, y1 = data.table.loc[row, ["x0", "y0", "x1", "y1"]]
    data.set(row, x0=y0, y0=x0, x1=y1, y1=x1)
    return [("annotations.csv", row, 2)]


@damage("boxes-mixed")
def boxes_of_some_images_swapped(data: DataSet) -> list[Where]:
    table = data.table
    swapped = table["baseimg"] >= "scene_00005"
    table.loc[swapped, ["x0", "y0", "x1", "y1"]] = table.loc[swapped, ["y0", "x0", "y1", "x1"]].to_numpy()
    data.write(table)
    return [("annotations.csv", int(table.index[swapped][0]), None)]


@damage("boxes-unusable")
def boxes_of_something_else(data: DataSet) -> list[Where]:
    table = data.table
    table[["x0", "x1"]] = table[["x0", "x1"]].astype(int) + 11
    data.write(table)
    return [("annotations.csv", None, None)]


@damage("area-wrong")
def area_wrong(data: DataSet) -> list[Where]:
    data.set(data.row(A, 2), area=int(data.table.loc[data.row(A, 2), "area"]) + 2)
    return [("annotations.csv", data.row(A, 2), 2)]


@damage("unknown-class")
def class_unknown(data: DataSet) -> list[Where]:
    data.set(data.row(A, 2), **{"class": "gold"})
    return [("annotations.csv", data.row(A, 2), 2)]


@damage("unknown-class")
def class_not_in_classes_json(data: DataSet) -> list[Where]:
    (data.folder / "classes.json").write_text(json.dumps({"Rb": 1, "Rc": 2}))
    table = data.table
    return [("annotations.csv", int(row), int(table.loc[row, "label"])) for row in table.index[table["class"] == "Ra"]]


@damage("bad-resolution")
def resolution_nan(data: DataSet) -> list[Where]:
    data.set(data.row(A, 2), res="nan")
    return [("annotations.csv", data.row(A, 2), 2)]


@damage("bad-resolution")
def resolution_0_of_a_image(data: DataSet) -> list[Where]:
    table = data.table
    table.loc[table["baseimg"] == A, "res"] = "0"
    data.write(table)
    rows = table.index[table["baseimg"] == A]
    return [("annotations.csv", int(row), int(table.loc[row, "label"])) for row in rows]


@damage("several-resolutions")
def resolution_of_one_row_different(data: DataSet) -> list[Where]:
    data.set(data.row(A, 2), res=float(data.table.loc[data.row(A, 2), "res"]) * 10)
    return [("annotations.csv", data.row(A, 2), 2)]


@damage("resolution-outlier")
def resolution_of_a_image_in_px_per_cm(data: DataSet) -> list[Where]:
    table = data.table
    own = table["baseimg"] == A
    table.loc[own, "res"] = (table.loc[own, "res"].astype(float) * 10).astype(str)
    data.write(table)
    return [("annotations.csv", data.row(A, 1), None)]


@damage("bad-mass")
def mass_0(data: DataSet) -> list[Where]:
    data.set(data.row(A, 2), mass=0)
    return [("annotations.csv", data.row(A, 2), 2)]


@damage("bad-mass")
def mass_infinite(data: DataSet) -> list[Where]:
    data.set(data.row(A, 2), mass="inf")
    return [("annotations.csv", data.row(A, 2), 2)]


@damage("mass-outlier")
def mass_in_milligrams(data: DataSet) -> list[Where]:
    data.set(data.row(A, 2), mass=float(data.table.loc[data.row(A, 2), "mass"]) * 1000)
    return [("annotations.csv", data.row(A, 2), 2)]


@damage("bad-value")
def label_is_text(data: DataSet) -> list[Where]:
    row = data.row(A, 2)
    data.set(row, label="two")
    return [("annotations.csv", row, None)]


@damage("bad-value")
def base_name_blank(data: DataSet) -> list[Where]:
    row = data.row(A, 2)
    data.set(row, baseimg="")
    return [("annotations.csv", row, 2)]


@damage("bad-value")
def gt_mass_is_text(data: DataSet) -> list[Where]:
    row = data.row(A, 2)
    data.set(row, gt_mass="perhaps")
    return [("annotations.csv", row, 2)]


@damage("bad-value")
def column_missing(data: DataSet) -> list[Where]:
    data.write(data.table.drop(columns="class"))
    return [("annotations.csv", None, None)]
