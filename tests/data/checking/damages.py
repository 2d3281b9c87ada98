"""A good synthetic data set with the means to damage it, and the table of damages, of which each has one kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ramses_d2.data.synthetic import SceneConfig

CONFIG = SceneConfig(height=96, width=144, stones=(10, 14), classes=("Ra", "Rb", "Rc"))
A = "scene_00002"  # the image that is damaged
CSV, IMAGE, LABEL, SPLIT = "annotations.csv", f"images/{A}.jpg", f"labels/{A}.png", "split.json"
BOX = ["x0", "y0", "x1", "y1"]
SWAPPED = ["y0", "x0", "y1", "x1"]
Where = tuple  # file, row and label of a finding


class DataSet:
    """A copy of the good set: scene_00001 ... scene_00006, of which the last two are for validation.

    Row numbers are those of a text editor.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def table(self) -> pd.DataFrame:
        """annotations.csv as text, index = row."""
        table = pd.read_csv(self.folder / CSV, dtype=str, keep_default_na=False)
        return table.set_axis(table.index + 2)

    def write(self, table: pd.DataFrame) -> None:
        table.to_csv(self.folder / CSV, index=False)

    def set(self, row: int, **cells: object) -> None:
        """Change cells of a row."""
        table = self.table
        for name, value in cells.items():
            table.loc[row, name] = str(value)
        self.write(table)

    def scale(self, row: int, name: str, factor: float, add: int = 0) -> None:
        """Change a number of a row."""
        value = float(self.table.loc[row, name]) * factor + add
        self.set(row, **{name: int(value) if add else value})

    def append(self, base: str, label: int, /, **cells: object) -> int:
        """Add a row: that of a particle with other cells; returns its number."""
        table = self.table
        row = max(table.index) + 1
        table.loc[row] = table.loc[self.row(base, label)]
        self.write(table)
        self.set(row, **cells)
        return row

    def row(self, base: str, label: int) -> int:
        """The row of a particle."""
        table = self.table
        return int(table.index[(table["baseimg"] == base) & (table["label"] == str(label))][0])

    def image(self, base: str) -> Path:
        return self.folder / "images" / f"{base}.jpg"

    def label(self, base: str) -> Path:
        return self.folder / "labels" / f"{base}.png"

    def labels(self, base: str) -> np.ndarray:
        """A label map, writable."""
        return np.array(Image.open(self.label(base)))

    def save_labels(self, base: str, label_map: np.ndarray) -> None:
        Image.fromarray(label_map.astype(np.uint16)).save(self.label(base))

    def background(self, base: str, height: int, width: int) -> tuple[slice, slice]:
        """A patch of background that no particle touches, nor the border."""
        free = np.pad(self.labels(base) == 0, 1)
        for y in range(1, free.shape[0] - height - 3):
            for x in range(1, free.shape[1] - width - 3):
                if free[y - 1 : y + height + 3, x - 1 : x + width + 3].all():
                    return np.s_[y : y + height, x : x + width]
        raise AssertionError("no background left")

    def paint(self, label: int, height: int, width: int) -> None:
        """Give a patch of background to a particle."""
        label_map = self.labels(A)
        label_map[self.background(A, height, width)] = label
        self.save_labels(A, label_map)

    def copy_image(self, base: str, name: str) -> None:
        """The same image under another name, saved without loss, with its label image and rows."""
        Image.open(self.image(base)).save(self.image(name).with_suffix(".png"))
        shutil.copy(self.label(base), self.label(name))
        table = self.table
        self.write(pd.concat([table, table[table["baseimg"] == base].assign(baseimg=name)]))

    def set_split(self, **changes: object) -> None:
        """Change keys of split.json."""
        split = json.loads((self.folder / SPLIT).read_text())
        (self.folder / SPLIT).write_text(json.dumps(split | changes))

    def add_to_split(self, subset: str, name: str) -> None:
        """Add an image to a subset of split.json."""
        subsets = json.loads((self.folder / SPLIT).read_text())["subsets"]
        self.set_split(subsets=subsets | {subset: [*subsets[subset], name]})

    def tag(self, orientation: int, turn: Image.Transpose | None = None) -> None:
        """Give the image an EXIF orientation, perhaps with its pixels turned as it says."""
        with Image.open(self.image(A)) as image:
            turned = image.transpose(turn) if turn is not None else image
            turned.getexif()[0x0112] = orientation
            turned.save(self.image(A), exif=turned.getexif())


def _repeat_copy(data: DataSet, name: str, subset: str) -> None:
    data.copy_image(A, name)
    data.add_to_split(subset, f"data/{name}")


def _empty_image(data: DataSet) -> None:
    Image.fromarray(255 - np.asarray(Image.open(data.image(A)))).save(data.image("empty"))
    data.save_labels("empty", np.zeros_like(data.labels(A)))


def _bare_image(data: DataSet) -> None:
    data.write(data.table.query("baseimg != @A"))
    data.label(A).unlink()


def _both_missing(data: DataSet) -> None:
    data.image(A).unlink()
    data.label(A).unlink()


def _decimal_comma(data: DataSet) -> None:
    lines = (data.folder / CSV).read_text().splitlines()
    lines[data.row(A, 2) - 1] = lines[data.row(A, 2) - 1].replace(".", ",")
    (data.folder / CSV).write_text("\n".join(lines))


def _palette(data: DataSet) -> None:
    image = Image.fromarray(data.labels(A).astype(np.uint8))
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.save(data.label(A))


def _at_border(data: DataSet) -> list[Where]:
    label_map = data.labels(A)
    top, column = np.argwhere(label_map)[0]  # the uppermost pixel of all: nothing is above it
    label = int(label_map[top, column])
    label_map[:top, column] = label
    data.save_labels(A, label_map)
    data.set(data.row(A, label), x0=0, area=np.count_nonzero(label_map == label))
    return [(CSV, data.row(A, label), label)]


def _four_pixels(data: DataSet) -> list[Where]:
    y, x = data.background(A, 2, 2)
    data.paint(99, 2, 2)
    row = data.append(A, 2, label=99, area=4, x0=y.start, x1=y.stop, y0=x.start, y1=x.stop, mass="nan")
    return [(CSV, row, 99)]


def _swap_box(data: DataSet) -> None:
    data.set(data.row(A, 2), **dict(zip(BOX, data.table.loc[data.row(A, 2), SWAPPED], strict=True)))


def _swap_boxes(data: DataSet) -> list[Where]:
    table = data.table
    swapped = table["baseimg"] >= "scene_00005"
    table.loc[swapped, BOX] = table.loc[swapped, SWAPPED].to_numpy()
    data.write(table)
    return [(CSV, int(table.index[swapped][0]), None)]


def _shift_boxes(data: DataSet) -> None:
    table = data.table
    data.write(table.assign(x0=table["x0"].astype(int) + 11, x1=table["x1"].astype(int) + 11))


def _rows_where(data: DataSet, name: str, value: str) -> list[Where]:
    table = data.table
    return [(CSV, int(row), int(table.loc[row, "label"])) for row in table.index[table[name] == value]]


def _shorter_class_list(data: DataSet) -> list[Where]:
    (data.folder / "classes.json").write_text('{"Rb": 1, "Rc": 2}')
    return _rows_where(data, "class", "Ra")


def _set_all(data: DataSet, res: object) -> None:
    table = data.table
    data.write(table.assign(res=table["res"].mask(table["baseimg"] == A, str(res))))


def _resolution_0(data: DataSet) -> list[Where]:
    _set_all(data, 0)
    return _rows_where(data, "baseimg", A)


# Damage: kind; file, particle whose row and label are named (0: no row; the label not where minus); what is done, which
# may return the places instead
DAMAGES = {
    "image missing": ("image-missing", f"images/{A}.*", -1, lambda d: d.image(A).unlink()),
    "label image missing": ("label-image-missing", LABEL, -1, lambda d: d.label(A).unlink()),
    "both missing": ("image-missing", f"images/{A}.*", -1, _both_missing),
    "orphan": ("orphan-label-image", "labels/stray.png", 0, lambda d: d.save_labels("stray", np.eye(20).repeat(3, 0))),
    "not annotated": ("not-annotated", IMAGE, 0, _bare_image),
    "one name": (
        "same-base-name",
        f"images/{A}.png",
        0,
        lambda d: shutil.copy(d.image(A), d.folder / f"images/{A}.png"),
    ),
    "image cut": ("image-unreadable", IMAGE, 0, lambda d: d.image(A).write_bytes(d.image(A).read_bytes()[:-900])),
    "label cut": ("label-image-unreadable", LABEL, 0, lambda d: d.label(A).write_bytes(d.label(A).read_bytes()[:-99])),
    "label is text": ("label-image-unreadable", LABEL, 0, lambda d: d.label(A).write_text("no image")),
    "semicolons": ("csv-unreadable", CSV, 0, lambda d: (d.folder / CSV).write_text("label;baseimg\n1;a\n")),
    "csv missing": ("csv-unreadable", CSV, 0, lambda d: (d.folder / CSV).unlink()),
    "metadata": (
        "json-unreadable",
        "metadata.json",
        0,
        lambda d: (d.folder / "metadata.json").write_text('{"images": ['),
    ),
    "split": ("json-unreadable", SPLIT, 0, lambda d: (d.folder / SPLIT).write_text("{}")),
    "class ids": ("json-unreadable", "classes.json", 0, lambda d: (d.folder / "classes.json").write_text('{"Ra": 0}')),
    "turned by exif": ("exif-rotated", IMAGE, 0, lambda d: d.tag(6, Image.Transpose.ROTATE_90)),
    "label not turned": ("label-not-upright", LABEL, 0, lambda d: d.tag(8)),
    "label size": ("size-differs", LABEL, 0, lambda d: d.save_labels(A, d.labels(A)[:-20, :-30])),
    "image size": ("size-differs", LABEL, 0, lambda d: Image.open(d.image(A)).resize((200, 150)).save(d.image(A))),
    "csv height": ("csv-size-wrong", CSV, -3, lambda d: d.set(d.row(A, 3), height=4096)),
    "csv width": ("csv-size-wrong", CSV, -3, lambda d: d.set(d.row(A, 3), width=96, height="")),
    "8 bits": ("label-not-uint16", LABEL, 0, lambda d: Image.fromarray(d.labels(A).astype(np.uint8)).save(d.label(A))),
    "3 channels": (
        *("label-not-uint16", LABEL, 0),
        lambda d: Image.fromarray(d.labels(A).astype(np.uint8)).convert("RGB").save(d.label(A)),
    ),
    "palette": ("label-not-uint16", LABEL, 0, _palette),
    "colours": (
        *("label-coloured", LABEL, 0),
        lambda d: Image.fromarray(
            np.dstack([d.labels(A).astype(np.uint8), d.labels(A) * 0, d.labels(A) > 2]).astype(np.uint8)
        ).save(d.label(A)),
    ),
    "decimal comma": ("bad-row", CSV, -2, _decimal_comma),
    "label two": ("bad-value", CSV, -2, lambda d: d.set(d.row(A, 2), label="two")),
    "no base name": ("bad-value", CSV, 2, lambda d: d.set(d.row(A, 2), baseimg="")),
    "gt_mass": ("bad-value", CSV, 2, lambda d: d.set(d.row(A, 2), gt_mass="perhaps")),
    "column missing": ("bad-value", CSV, 0, lambda d: d.write(d.table.drop(columns="class"))),
    "duplicate": (
        *("duplicate-row", CSV, 0),
        lambda d: [(CSV, d.append(A, 2, mass=5, area=1, x0=0, **{"class": "Rc"}), 2)],
    ),
    "class": ("unknown-class", CSV, 2, lambda d: d.set(d.row(A, 2), **{"class": "gold"})),
    "class list": ("unknown-class", CSV, 0, _shorter_class_list),
    "res nan": ("bad-resolution", CSV, 2, lambda d: d.set(d.row(A, 2), res="nan")),
    "res 0": ("bad-resolution", CSV, 0, _resolution_0),
    "res of a row": ("several-resolutions", CSV, 2, lambda d: d.scale(d.row(A, 2), "res", 10)),
    "res unknown": ("resolution-unknown", "images/empty.jpg", 0, _empty_image),
    "res in px/cm": (
        *("resolution-outlier", CSV, -1),
        lambda d: _set_all(d, float(d.table.loc[d.row(A, 1), "res"]) * 10),
    ),
    "mass 0": ("bad-mass", CSV, 2, lambda d: d.set(d.row(A, 2), mass=0)),
    "mass inf": ("bad-mass", CSV, 2, lambda d: d.set(d.row(A, 2), mass="inf")),
    "mass in mg": ("mass-outlier", CSV, 2, lambda d: d.scale(d.row(A, 2), "mass", 1000)),
    "no pixels": ("row-without-pixels", CSV, 4, lambda d: d.save_labels(A, d.labels(A) * (d.labels(A) != 4))),
    "rows of three": (
        *("pixels-without-row", LABEL, 0),
        lambda d: d.write(d.table[(d.table["baseimg"] != A) | (d.table["label"].astype(int) <= 3)]),
    ),
    "one row less": (
        *("pixels-without-row", LABEL, 0),
        lambda d: d.write(d.table.drop(index=d.row(A, 5))) or [(LABEL, None, 5)],
    ),
    "no row": ("pixels-without-row", LABEL, 0, lambda d: d.write(d.table.query("baseimg != @A"))),
    "box": ("box-wrong", CSV, 2, lambda d: d.scale(d.row(A, 2), "y1", 1, 7)),
    "box swapped": ("box-wrong", CSV, 2, _swap_box),
    "boxes mixed": ("boxes-mixed", CSV, 0, _swap_boxes),
    "boxes shifted": ("boxes-unusable", CSV, 0, _shift_boxes),
    "area": ("area-wrong", CSV, 2, lambda d: d.scale(d.row(A, 2), "area", 1, 2)),
    "at the border": ("touches-border", CSV, 0, _at_border),
    "two parts": ("disconnected", CSV, 3, lambda d: d.paint(3, 5, 6)),
    "stray pixels": ("specks", CSV, 3, lambda d: d.paint(3, 1, 2)),
    "four pixels": ("tiny-particle", CSV, 0, _four_pixels),
    "two subsets": ("in-two-subsets", SPLIT, 0, lambda d: d.add_to_split("valid", f"data/{A}")),
    "copy apart": ("copy-in-two-subsets", "images/a_copy.png", 0, lambda d: _repeat_copy(d, "a_copy", "valid")),
    "copy": ("duplicate-picture", "images/z_copy.png", 0, lambda d: _repeat_copy(d, "z_copy", "train")),
    "split name": ("split-picture-missing", SPLIT, 0, lambda d: d.add_to_split("train", "data/nowhere")),
}


def inflict(data: DataSet, name: str) -> tuple[str, list[Where]]:
    """Damage a data set; returns the only kind that is to be found then, and where."""
    kind, file, particle, act = DAMAGES[name]
    row = data.row(A, abs(particle)) if particle else None
    places = act(data)
    label = particle if particle > 0 else None
    return kind, places if isinstance(places, list) else [(file, row, label)]
