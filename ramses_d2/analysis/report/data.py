"""What a report is made of: the folder that ``tools/predict.py`` wrote, and the metadata.json beside its images.

Only annotations.csv is needed. Where run.json, label images or images are missing, the report says so and goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ramses_d2.analysis.particles import COLUMNS
from ramses_d2.data.batch_masses import Batch, parse_batches
from ramses_d2.errors import RamsesError
from ramses_d2.files import base_name, read_json

# Columns of the particle table that are no numbers
TEXT_COLUMNS = ("baseimg", "class", "edge")
_NEEDED = ("baseimg", "label", "class")
_OPTIONAL = ("res", "mass", "area", "score")
_UNKNOWN = ("", "nan")
METADATA = "metadata.json"


@dataclass(frozen=True)
class RunImage:
    """An image of a run.

    Attributes:
        file_name: with extension, as in column baseimg.
        name: of its files in labels/ and overlays/, without extension.
        path: of the image, None = not found.
        resolution: px/mm, NaN = unknown.
        camera: from metadata.json, "" = unknown.
        listed_resolution: of metadata.json, NaN = none; the images may have been predicted with another.
        size: height and width in px, None = unknown.
    """

    file_name: str
    name: str
    path: Path | None = None
    resolution: float = np.nan
    camera: str = ""
    listed_resolution: float = np.nan
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Run:
    """A folder of predictions.

    Attributes:
        folder: where it is.
        table: particle table, one row per particle; columns that annotations.csv lacks are not made up, but for res,
            mass, area and score (NaN).
        images: all images, also those without particles, in the order of run.json.
        record: content of run.json, {} = none.
        failed: images that could not be predicted, with the reason.
    """

    folder: Path
    table: pd.DataFrame
    images: list[RunImage]
    record: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    @property
    def weights(self) -> dict[str, str]:
        """``file`` and ``sha256`` of the weights, as far as run.json says."""
        given = self.record.get("weights")
        settings = self.record.get("settings")
        found = dict(given) if isinstance(given, dict) else {}
        found.setdefault("file", self.record.get("weights_file"))
        found.setdefault("sha256", settings.get("weights_sha256") if isinstance(settings, dict) else None)
        return {key: str(value) for key, value in found.items() if value}


@dataclass(frozen=True)
class WeighedBatches:
    """The batches of a metadata.json.

    Attributes:
        source: the file, None = there is none.
        batches: may be empty.
        several: there are several beside the images, so that it has to be said which is meant.
    """

    source: Path | None
    batches: list[Batch]
    several: bool = False


def read_particles(path: Path) -> pd.DataFrame:
    """Read an annotations.csv that a prediction wrote.

    Args:
        path: the file.

    Returns:
        its columns: text (never NaN) in ``TEXT_COLUMNS`` and in columns that no prediction writes and that hold more
        than numbers; float elsewhere. res, mass, area and score are added as NaN where they are missing.

    Raises:
        RamsesError: missing, no CSV, without a needed column, or no number where one belongs; with the row.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise RamsesError(f"{path}: no such file; give the --output folder of tools/predict.py") from None
    except (OSError, ValueError) as error:
        raise RamsesError(f"{path}: not a readable CSV file ({' '.join(str(error).split())})") from None
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise RamsesError(f"{path}: no column {missing[0]}; give the annotations.csv that tools/predict.py wrote")
    for name in table.columns.difference(TEXT_COLUMNS, sort=False):
        if name in COLUMNS or not _is_text(table[name]):
            table[name] = _numbers(table[name], path)
    if "edge" in table:
        table["edge"] = table["edge"].where(table["edge"] != "nan", "")
    for name in _OPTIONAL:
        if name not in table:
            table[name] = np.nan
    return table


def _is_text(texts: pd.Series) -> bool:
    unknown = texts.str.strip().str.lower().isin(_UNKNOWN)
    return bool(pd.to_numeric(texts[~unknown], errors="coerce").isna().any())


def _numbers(texts: pd.Series, path: Path) -> pd.Series:
    """A column as float, NaN = unknown."""
    unknown = texts.str.strip().str.lower().isin(_UNKNOWN)
    values = pd.to_numeric(texts.where(~unknown, "nan"), errors="coerce").astype(float)
    wrong = np.flatnonzero(values.isna() & ~unknown)
    if len(wrong):
        raise RamsesError(
            f"{path}, row {wrong[0] + 2}: {texts.name} is {texts.iloc[wrong[0]]!r}; give a number, or leave it empty"
        )
    return values


def read_run(folder: str | Path, images: str | Path | None = None) -> Run:
    """Read a folder of predictions.

    Args:
        folder: what ``--output`` of ``tools/predict.py`` named.
        images: folder of the images, for runs whose record does not lead to them.

    Raises:
        RamsesError: see :func:`read_particles`; or run.json is no JSON object, or there is no such folder of images.
    """
    folder = Path(folder)
    if images is not None and not Path(images).is_dir():
        raise RamsesError(f"{images}: no such folder of images")
    if not (folder / "run.json").is_file() and (folder / "images").is_dir():
        raise RamsesError(f"{folder} is a data set, not a run: give what --output of tools/predict.py named")
    table = read_particles(folder / "annotations.csv")
    record = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    if not isinstance(record, dict):
        raise RamsesError(f"{folder / 'run.json'}: not the record of a run (a JSON object)")
    resolutions = table.groupby("baseimg")["res"].max()
    listed = _listed_images(record)
    known = {image["file_name"] for image in listed}
    listed += [{"file_name": name} for name in dict.fromkeys(table["baseimg"]) if name not in known]
    named = {image.get("name", base_name(image["file_name"])) for image in listed}
    empty = sorted({path.stem for path in (folder / "labels").glob("*.png")} - named)
    listed += [{"file_name": name, "name": name} for name in empty]
    found = [_image(entry, folder, images, resolutions) for entry in listed]
    failed = [
        f"{entry.get('path', entry)}: {entry.get('error', 'not predicted')}" if isinstance(entry, dict) else str(entry)
        for entry in record.get("failed") or []
    ]
    return Run(folder, table, _with_metadata(found), record, failed)


def _listed_images(record: dict[str, Any]) -> list[dict[str, Any]]:
    """``pictures`` of run.json, each with file_name."""
    listed = []
    for entry in record.get("pictures") or []:
        path = entry.get("path") or entry.get("file") or entry.get("file_name")
        if path:
            listed.append({**entry, "path": path, "file_name": entry.get("file_name") or Path(path).name})
    return listed


def _image(entry: dict[str, Any], folder: Path, images: str | Path | None, resolutions: pd.Series) -> RunImage:
    file_name = entry["file_name"]
    path = Path(entry.get("path", file_name))
    tried = [Path(images) / file_name] if images else []
    # A relative path was relative to where predict.py ran
    tried += [path, folder / path, folder.parent / path]
    resolution = entry.get("resolution") or resolutions.get(file_name, np.nan)
    size = (entry["height"], entry["width"]) if entry.get("height") and entry.get("width") else None
    return RunImage(
        file_name=file_name,
        name=entry.get("name") or base_name(file_name),
        path=next((option for option in tried if option.is_file()), None),
        resolution=float(resolution) if resolution else np.nan,
        size=size,
    )


def _metadata_beside(path: Path) -> Path | None:
    """metadata.json in the folder of an image, or above it (FOLDER/images/a.jpg)."""
    return next((folder / METADATA for folder in path.parents[:2] if (folder / METADATA).is_file()), None)


def _with_metadata(images: Sequence[RunImage]) -> list[RunImage]:
    """Add what the metadata.json beside the images says of camera and resolution."""
    files = {image.path.parent: _metadata_beside(image.path) for image in images if image.path}
    entries = {path: _image_entries(path) for path in {path for path in files.values() if path}}
    completed = []
    for image in images:
        metadata = files[image.path.parent] if image.path else None
        entry = entries[metadata].get(base_name(image.file_name), {}) if metadata else {}
        listed = float(pd.to_numeric(entry.get("res"), errors="coerce")) if entry.get("res") is not None else np.nan
        listed = listed if 0 < listed < np.inf else np.nan
        completed.append(replace(image, camera=str(entry.get("camera") or ""), listed_resolution=listed))
    return completed


def _image_entries(path: Path) -> dict[str, dict[str, Any]]:
    content = read_json(path)
    images = content.get("images") if isinstance(content, dict) else None
    return {
        base_name(str(entry["file_name"])): entry
        for entry in images or []
        if isinstance(entry, dict) and "file_name" in entry
    }


def find_batches(run: Run, source: str | Path | None = None) -> WeighedBatches:
    """The weighed batches of a metadata.json.

    Args:
        run: whose images the file lies beside, where ``source`` is not given.
        source: the file, or the folder that holds metadata.json.

    Raises:
        RamsesError: ``source`` has no batches, or a batch is wrong; see
            :func:`~ramses_d2.data.batch_masses.parse_batches`.
    """
    beside = {_metadata_beside(image.path) for image in run.images if image.path} - {None}
    # Images of several folders: which file is meant has to be said
    path = Path(source) if source is not None else (beside.pop() if len(beside) == 1 else None)
    if path is None:
        return WeighedBatches(None, [], several=len(beside) > 1)
    path = path / METADATA if path.is_dir() else path
    content = read_json(path)
    batches = content.get("batches") if isinstance(content, dict) else None
    if source is not None and not batches:
        raise RamsesError(f"{path}: no batches in it; they are described in datasets/README.md")
    return WeighedBatches(path, parse_batches(batches or [], path))
