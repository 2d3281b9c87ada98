"""Read label images with a class table, as Cellpose, StarDist, ImageJ and others write them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ramses_d2.data.convert.common import Source, SourceImage, index_files, read_index_image
from ramses_d2.errors import RamsesError
from ramses_d2.files import read_json


def read_label_images(
    label_folder: str | Path,
    image_folder: str | Path,
    *,
    class_table: str | Path | None = None,
    class_name: str | None = None,
    label_suffix: str = "",
) -> Source:
    """Read images with one label image each: whole numbers or a palette, 0 = background, each object its own value.

    `a.jpg` belongs to `a<label_suffix>.png`. The class table is a CSV with the columns `image` (or `baseimg`,
    `file_name`; with or without extension), `label` and `class`, or JSON `{"a": {"1": "brick", "2": "glass"}}`; its
    classes are sorted by name. `class_name` is the class of every object that it does not name.
    """
    label_folder = Path(label_folder)
    if class_table is None and class_name is None:
        raise RamsesError(f"{label_folder}: label images do not say classes; give a class table, or one class for all")
    images = index_files(Path(image_folder))
    labels = index_files(label_folder, (".png", ".tif", ".tiff", ".bmp"))
    labels = {name.removesuffix(label_suffix): labels[name] for name in labels if name.endswith(label_suffix)}
    lonely = sorted(set(labels) - set(images))
    if lonely or not labels:
        hint = f"{lonely[0]}.* is missing in {image_folder}" if lonely else f"none ends in {label_suffix!r}"
        raise RamsesError(f"{label_folder}: {hint}; a label image has the name of its image, plus a label suffix")
    table = _read_table(Path(class_table), images) if class_table is not None else {}
    classes = sorted({name for rows in table.values() for name in rows.values()} | ({class_name} - {None}))
    notes: Counter[str] = Counter()
    notes["images without a label image left out"] = len(set(images) - set(labels))

    def read_images() -> Iterator[SourceImage]:
        for name, path in labels.items():
            label_map = read_index_image(path)
            named = table.get(name, {})
            present = [label for label in sorted(pd.unique(label_map.ravel()).tolist()) if label > 0]
            unnamed = [label for label in present if label not in named]
            if unnamed and class_name is None:
                count = f"{len(unnamed)} of {len(present)}"
                raise RamsesError(f"{path}: label {unnamed[0]} ({count}) has no class; add it, or give one for all")
            rows = dict.fromkeys(present, class_name) | named  # a row of the table without a pixel is left out later
            objects = pd.DataFrame({"label": list(rows), "class": list(rows.values())})
            yield SourceImage(name, images[name], label_map, objects)

    return Source(str(label_folder), classes, read_images(), len(labels), notes=notes)


def _read_table(path: Path, images: dict[str, Path]) -> dict[str, dict[int, str]]:
    """Base name -> label -> class."""
    by_file_name = {image.name: name for name, image in images.items()}
    table: dict[str, dict[int, str]] = {}
    for where, image, label, class_name in _json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path):
        if not label.isdecimal() or int(label) == 0:
            raise RamsesError(f"{where}: label is {label!r}; it is a whole number from 1")
        if not class_name:
            raise RamsesError(f"{where}: label {label} has no class; give the class name")
        name = image if image in images else by_file_name.get(image, Path(image).stem)
        if name not in images:
            raise RamsesError(f"{where}: there is no image {image!r}; correct the name or remove the row")
        if int(label) in table.setdefault(name, {}):
            raise RamsesError(f"{where}: label {label} of {image} appears a second time; one class per object")
        table[name][int(label)] = class_name
    return table


def _json_rows(path: Path) -> Iterator[tuple[str, str, str, str]]:
    content = read_json(path)
    for image, classes in content.items() if isinstance(content, dict) else [("", None)]:
        if not isinstance(classes, dict):
            raise RamsesError(f'{path}: write {{"image": {{"1": "class of label 1"}}}}')
        for label, class_name in classes.items():
            yield str(path), image, label, str(class_name)


def _csv_rows(path: Path) -> Iterator[tuple[str, str, str, str]]:
    if not path.is_file():
        raise RamsesError(f"{path}: no such file")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise RamsesError(f"{path}: not a comma-separated table ({' '.join(str(error).split())})") from None
    table = table.rename(columns=str.strip).fillna("")
    image_columns = [name for name in ("image", "baseimg", "file_name", "filename") if name in table]
    if not image_columns or not {"label", "class"} <= set(table):
        raise RamsesError(f"{path}: columns image, label and class are needed (found: {', '.join(table)})")
    for row, cells in enumerate(table[[image_columns[0], "label", "class"]].itertuples(index=False), start=2):
        image, label, name = (cell.strip() for cell in cells)
        if image or label or name:
            yield f"{path}, row {row}", image, label, name
