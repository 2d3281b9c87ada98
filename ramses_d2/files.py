"""Files and folders on disk: written whole or not at all, never replaced unasked; JSON, file names and their order."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from ramses_d2.errors import RamsesError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Another name beside ``path`` to write to; it takes the place of ``path`` at the end, and goes on failure.

    Two processes that write the same file have different names, so the later one wins whole.
    """
    unfinished = path.with_name(f"{path.name}.unfinished-{os.getpid()}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """A stream, "w" (UTF-8) or "wb", whose content takes the place of ``path`` at the end; on failure nothing stays."""
    with (
        atomic_path(path) as unfinished,
        unfinished.open(mode, encoding=None if "b" in mode else "utf-8", **options) as stream,
    ):
        yield stream


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_file(path, "wb") as stream:
        stream.write(content)


def write_json(path: Path, value: Any, indent: int | None = None, **options: Any) -> None:
    """Write :func:`json_values` of anything, whole or not at all; ``options`` of ``json.dumps``."""
    text = json.dumps(json_values(value), indent=indent, allow_nan=False, **options)
    write_bytes(path, (text + "\n").encode())


@contextmanager
def folder_swap(output: Path) -> Iterator[Path]:
    """A folder to fill beside ``output``; it takes its place and name at the end, and is removed on failure.

    The caller checks whether an existing ``output`` may be replaced. A link stays a link, to the new folder. Two
    processes may write the same folder: the later one wins whole.
    """
    output = output.resolve()
    _tidy_up(output)
    # Who stands in a folder would go away with it: it stays, and what was made moves in
    is_here = output.is_dir() and output.samefile(os.curdir)
    if is_here and any(output.iterdir()):
        raise RamsesError(f"{output} is the working directory: change to another one before it is replaced")
    unfinished, replaced = (_beside(output, kind, os.getpid()) for kind in ("unfinished", "replaced"))
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if is_here:
            for path in sorted(unfinished.iterdir()):
                path.rename(output / path.name)
        else:
            with suppress(FileNotFoundError):  # there is none, or another process is replacing it
                output.rename(replaced)
            unfinished.rename(output)
    finally:
        _tidy_up(output)


def _beside(output: Path, kind: str, process: int) -> Path:
    return output.with_name(f"{output.name}.ramses-{kind}-{process}")


def _tidy_up(output: Path) -> None:
    """Remove what this process, or one that was killed, left beside ``output``; put back what it had only put away."""
    pattern = re.compile(re.escape(output.name) + r"\.ramses-(unfinished|replaced)-(\d{1,9})")
    names = sorted(os.listdir(output.parent), reverse=True) if output.parent.is_dir() else []
    for found in filter(None, map(pattern.fullmatch, names)):
        kind, process = found[1], int(found[2])
        # In containers, a process that was killed often had this one's number
        if process != os.getpid() and _is_running(process):
            continue
        left = output.with_name(found[0])
        with suppress(FileNotFoundError):  # another process does the same
            if kind == "replaced" and not output.exists():
                left.rename(output)
                continue
            if kind == "replaced":  # half removed, it must not be put back
                left = left.rename(_beside(output, "unfinished", process))
            shutil.rmtree(left, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RamsesError(f"{path}: no such file") from None
    except OSError as error:
        raise RamsesError(f"{path}: cannot be read as a JSON file ({error.strerror}); name a file") from None
    except ValueError as error:
        raise RamsesError(f"{path}: not a JSON file ({error})") from None


def json_values(value: Any) -> Any:
    """Turn dataclasses, tables and NumPy values into what ``json.dump(..., allow_nan=False)`` takes.

    NaN, infinity and pandas' NA become None: JSON has no word for them. A table becomes a list of rows. Fields of a
    dataclass that are kept out of its ``repr`` (such as bootstrap replicates) are left out.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: json_values(getattr(value, field.name)) for field in dataclasses.fields(value) if field.repr
        }
    if isinstance(value, pd.DataFrame):
        return [json_values(row) for row in value.to_dict("records")]
    if isinstance(value, Mapping):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return json_values(value.tolist())
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    if isinstance(value, np.generic):
        return json_values(value.item())
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def natural_key(path: str | Path) -> tuple[list[str | int], str]:
    """Sort key: numbers by value, letters whatever their case, and the plain text where these are equal."""
    # Text and numbers take turns, beginning with text, so that like is compared with like
    pieces = re.split(r"(\d+)", str(path).casefold())
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], str(path)


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


def list_images(folder: Path, layout: str) -> dict[str, Path]:
    """Base name -> image of a folder, by name; ``layout`` says in an error what the folder should be part of."""
    if not folder.is_dir():
        raise RamsesError(f"{folder}: no such folder; {layout}")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            if path.stem in images:
                raise RamsesError(f"{path}: a second image with the base name of {images[path.stem].name}; rename one")
            images[path.stem] = path
    return images


def base_name(name: str) -> str:
    """File name of an image without folder and extension; a name without extension may have dots."""
    last = name.replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = last.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else last


def base_names(column: pd.Series, known: Container[str]) -> pd.Series:
    """Base names of a column; one in ``known`` is a base name already: "a.tif" may be that of a.tif.png."""
    return column.map(lambda name: name if name in known else base_name(name)).astype(object)


def check_resolution(value: Any, where: str) -> float:
    """A resolution in px/mm: a finite number above 0. ``where`` names its file and row or key."""
    try:
        resolution = float(value)
    except (TypeError, ValueError):
        resolution = math.nan
    if isinstance(value, bool) or not 0 < resolution < math.inf:
        raise RamsesError(f"{where}: resolution is {value!r}; it is px per mm, above 0")
    return resolution


def check_output(output: Path, force: bool) -> None:
    """The one rule for output files: an existing one is replaced by --force only, a folder never."""
    if output.is_dir():
        raise RamsesError(f"{output} is a folder: name a file")
    if output.exists() and not force:
        raise RamsesError(f"{output} exists: choose another --output, or replace it with --force")


@dataclass(frozen=True)
class OwnFolder:
    """A kind of folder that a command writes; a marker file in it says so, and --force replaces no other folder."""

    name: str
    marker: str
    format: str

    def entries(self) -> dict[str, Any]:
        """What the marker file must hold."""
        return {"format": self.format, "version": 1}

    def check_replaceable(self, output: Path, force: bool) -> None:
        """The one rule for output folders."""
        if output.exists() and not output.is_dir():
            raise RamsesError(f"{output} is a file: name a folder to write the {self.name} to")
        if not output.exists() or not any(output.iterdir()):
            return
        if not force:
            raise RamsesError(f"{output} already exists: choose another folder or replace it with --force")
        try:
            marked = json.loads((output / self.marker).read_text(encoding="utf-8"))["format"] == self.format
        except (OSError, ValueError, LookupError, TypeError):
            marked = False
        if not marked:
            raise RamsesError(
                f"{output} is not a {self.name} (its {self.marker} is missing): refusing to replace it; "
                "choose another folder"
            )
