"""What a report is made of: the folder that tools/predict.py wrote, and the metadata.json beside its images.

Only annotations.csv is needed. Where run.json, label images or images are missing, the report says so and goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ramses_d2.analysis.particles import COLUMNS
from ramses_d2.data.batch_masses import Batch, parse_batches
from ramses_d2.data.folder import METADATA_NAME, image_entries, read_text_table
from ramses_d2.errors import RamsesError
from ramses_d2.files import base_name, read_json

TEXT_COLUMNS = ("baseimg", "class", "edge")


@dataclass(frozen=True)
class RunImage:
    """An image of a run; ``name`` is that of its files in labels/ and overlays/."""

    file_name: str
    name: str
    path: Path | None = None  # None = not found
    resolution: float = np.nan  # px/mm, NaN = unknown
    camera: str = ""
    listed_resolution: float = np.nan  # of metadata.json; the prediction may have used another
    size: tuple[int, int] | None = None  # height and width, px


@dataclass(frozen=True)
class Run:
    """A folder of predictions: ``table`` has one row per particle, ``images`` are all, ``record`` is run.json."""

    folder: Path
    table: pd.DataFrame
    images: list[RunImage]
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> list[str]:
        """Images that could not be predicted, with the reason."""
        entries = [(f"{entry['path']}: ", entry["error"]) for entry in self.record.get("failed", [])]
        return [place + error.removeprefix(place) for place, error in entries]

    @property
    def weights(self) -> dict[str, str]:
        """``file`` and ``sha256`` of the weights, as far as run.json says."""
        settings = self.record.get("settings", {})
        found = {"file": self.record.get("weights_file"), "sha256": settings.get("weights_sha256")}
        return {key: str(value) for key, value in found.items() if value}


@dataclass(frozen=True)
class WeighedBatches:
    """The batches of a metadata.json; ``source`` None = there is none, or ``several`` lie beside the images."""

    source: Path | None
    batches: list[Batch]
    several: bool = False


def read_particles(path: Path) -> pd.DataFrame:
    """The annotations.csv of a run: ``TEXT_COLUMNS`` and further columns of words are text, the others float.

    Text is never NaN; res, mass, area and score are NaN where they are missing.
    """
    table = read_text_table(path)
    missing = [name for name in ("baseimg", "label", "class") if name not in table]
    if missing:
        raise RamsesError(f"{path}: no column {missing[0]}; give the annotations.csv that tools/predict.py wrote")
    for name in table.columns.difference(TEXT_COLUMNS, sort=False):
        texts, numbers = table[name], pd.to_numeric(table[name], errors="coerce").astype(float)
        wrong = texts[numbers.isna() & ~texts.str.lower().isin(("", "nan"))]
        if wrong.empty:
            table[name] = numbers
        elif name in COLUMNS:
            raise RamsesError(f"{path}, row {wrong.index[0]}: {name} is {wrong.iloc[0]!r}; give a number or nothing")
    if "edge" in table:
        table["edge"] = table["edge"].replace("nan", "")
    table = table.assign(**{name: np.nan for name in ("res", "mass", "area", "score") if name not in table})
    return table.reset_index(drop=True)


def read_run(folder: str | Path, images: str | Path | None = None) -> Run:
    """Read what ``--output`` of tools/predict.py named; ``images`` is where its images are now, if they have moved."""
    folder, annotations, record_path = Path(folder), Path(folder, "annotations.csv"), Path(folder, "run.json")
    if images is not None and not Path(images).is_dir():
        raise RamsesError(f"{images}: no such folder of images")
    if not record_path.is_file() and (folder / "images").is_dir():
        raise RamsesError(f"{folder} is a data set, not a run: give what --output of tools/predict.py named")
    if not annotations.is_file():
        raise RamsesError(f"{annotations}: no such file; give the --output folder of tools/predict.py")
    table, record = read_particles(annotations), read_json(record_path) if record_path.is_file() else {}
    if not isinstance(record, dict):
        raise RamsesError(f"{record_path}: this is not the run.json of a run (a JSON object)")
    # Images that run.json lists, then those that only annotations.csv names, then those with a label image alone
    listed = list(record.get("pictures", []))
    known = {entry["file_name"] for entry in listed}
    listed += [{"file_name": name} for name in table["baseimg"].unique() if name not in known]
    named = {entry.get("name", base_name(entry["file_name"])) for entry in listed}
    empty = {path.stem for path in (folder / "labels").glob("*.png")} - named
    listed += [{"file_name": name, "name": name} for name in sorted(empty)]
    resolutions, metadata = table.groupby("baseimg")["res"].max(), cache(image_entries)
    found = []
    for entry in listed:
        file_name = entry["file_name"]
        # A relative path was relative to where predict.py ran
        tried = [root / entry.get("path", file_name) for root in (Path(), folder, folder.parent)]
        path = next(filter(Path.is_file, [Path(images or folder, file_name)] * bool(images) + tried), None)
        beside = _metadata_folder(path)
        about = metadata(beside).get(base_name(file_name), {}) if beside else {}
        res = pd.to_numeric(about.get("res") or np.nan, errors="coerce")
        known = {
            "name": entry.get("name", base_name(file_name)),
            "resolution": float(entry.get("resolution") or resolutions.get(file_name) or np.nan),
            "camera": str(about.get("camera") or ""),
            "listed_resolution": float(res) if 0 < res < np.inf else np.nan,
            "size": (entry["height"], entry["width"]) if "height" in entry else None,
        }
        found.append(RunImage(file_name, path=path, **known))
    return Run(folder, table, found, record)


def _metadata_folder(image: Path | None) -> Path | None:
    """The folder of an image, or the one above it (FOLDER/images/a.jpg), if it holds a metadata.json."""
    return next((path for path in image.parents[:2] if (path / METADATA_NAME).is_file()), None) if image else None


def find_batches(run: Run, source: str | Path | None = None) -> WeighedBatches:
    """The weighed batches of ``source``, a file or the folder of a metadata.json; default: beside the run's images."""
    beside = {_metadata_folder(image.path) for image in run.images} - {None}
    if source is None and len(beside) != 1:  # images of several folders: which file is meant has to be said
        return WeighedBatches(None, [], several=len(beside) > 1)
    path = Path(beside.pop() if source is None else source)
    path = path / METADATA_NAME if path.is_dir() else path
    content = read_json(path)
    batches = content.get("batches") if isinstance(content, dict) else None
    if source is not None and not batches:
        raise RamsesError(f"{path}: no batches in it; they are described in datasets/README.md")
    return WeighedBatches(path, parse_batches(batches or [], path))
