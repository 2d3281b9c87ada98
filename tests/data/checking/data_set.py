"""A good synthetic data set with the means to damage it, and the register of damages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ramses_d2.data.synthetic.scene import SceneConfig

CONFIG = SceneConfig(height=96, width=144, stones=(10, 14), classes=("Ra", "Rb", "Rc"))


A = "scene_00002"  # the image that is damaged
Where = tuple  # file, row and label of a finding
DAMAGES: dict[str, tuple[str, Callable[[DataSet], list[Where]]]] = {}


def damage(kind: str) -> Callable:
    """Register a function that damages a data set, by its name, and the only kind that is to be found then."""

    def register(function: Callable[[DataSet], list[Where]]) -> Callable[[DataSet], list[Where]]:
        DAMAGES[function.__name__] = (kind, function)
        return function

    return register


class DataSet:
    """A copy of the good set, ``data``, with the means to damage it.

    Images are ``scene_00001`` ... ``scene_00006``; the last two are for validation. Row numbers are those of a text
    editor.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def table(self) -> pd.DataFrame:
        """annotations.csv as text, index = row."""
        table = pd.read_csv(self.folder / "annotations.csv", dtype=str, keep_default_na=False)
        return table.set_axis(table.index + 2)

    def write(self, table: pd.DataFrame) -> None:
        """Replace annotations.csv."""
        table.to_csv(self.folder / "annotations.csv", index=False)

    def set(self, row: int, **cells: object) -> None:
        """Change cells of a row."""
        table = self.table
        for name, value in cells.items():
            table.loc[row, name] = str(value)
        self.write(table)

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
        """An image."""
        return self.folder / "images" / f"{base}.jpg"

    def label(self, base: str) -> Path:
        """A label image."""
        return self.folder / "labels" / f"{base}.png"

    def labels(self, base: str) -> np.ndarray:
        """A label map, writable."""
        return np.array(Image.open(self.label(base)))

    def save_labels(self, base: str, label_map: np.ndarray) -> None:
        """Replace a label image by a 16-bit one."""
        Image.fromarray(label_map.astype(np.uint16)).save(self.label(base))

    def background(self, base: str, height: int, width: int) -> tuple[slice, slice]:
        """A patch of background that no particle touches, nor the border."""
        free = np.pad(self.labels(base) == 0, 1)
        for y in range(1, free.shape[0] - height - 3):
            for x in range(1, free.shape[1] - width - 3):
                if free[y - 1 : y + height + 3, x - 1 : x + width + 3].all():
                    return np.s_[y : y + height, x : x + width]
        raise AssertionError("no background left")

    def copy_image(self, base: str, name: str) -> None:
        """The same image under another name, saved without loss, with its label image and rows."""
        Image.open(self.image(base)).save(self.image(name).with_suffix(".png"))
        shutil.copy(self.label(base), self.label(name))
        table = self.table
        self.write(pd.concat([table, table[table["baseimg"] == base].assign(baseimg=name)]))

    def add_to_split(self, subset: str, name: str) -> None:
        """Add an image to a subset of split.json."""
        path = self.folder / "split.json"
        split = json.loads(path.read_text())
        split["subsets"][subset].append(name)
        path.write_text(json.dumps(split))
