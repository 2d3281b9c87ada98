"""Folders that a command wrote, and may replace as long as nobody put anything of his own into them."""

from __future__ import annotations

import dataclasses
import hashlib
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
    """A stream whose content takes the place of ``path`` at the end; on failure nothing of it stays.

    Args:
        path: of the file.
        mode: "w" (UTF-8) or "wb".
        options: of ``open``.
    """
    with (
        atomic_path(path) as unfinished,
        unfinished.open(mode, encoding=None if "b" in mode else "utf-8", **options) as stream,
    ):
        yield stream


@contextmanager
def folder_swap(output: Path) -> Iterator[Path]:
    """A folder to fill beside ``output``; it takes its place and name at the end, and is removed on failure.

    Whether an existing ``output`` may be replaced is the caller's to check. A link stays one and leads to the new
    folder. Two processes may write the same folder: the later one wins whole.

    Args:
        output: the folder to make or to replace.
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
    """A name that nobody but this module gives."""
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

    Args:
        value: dataclass, DataFrame (becomes a list of rows), mapping, sequence, NumPy or plain value. NaN,
            infinity and pandas' NA become None: JSON has no word for them. Fields of a dataclass that are kept out of
            its ``repr`` (such as bootstrap replicates) are left out.
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


def base_name(name: str) -> str:
    """File name of an image without folder and extension; a name without extension may have dots."""
    last = name.replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = last.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else last


def base_names(column: pd.Series, known: Container[str]) -> pd.Series:
    """Base names of a column of names; one in ``known`` is such already, whatever it looks like ("a.tif" of a.tif.png).

    Args:
        column: names of images.
        known: base names of the images that there are.
    """
    return column.map(lambda name: name if name in known else base_name(name)).astype(object)


@dataclass(frozen=True)
class OwnFolder:
    """A kind of folder that a command writes, with a file in it that says what was written.

    Attributes:
        name: in messages.
        work: what the command does.
        record: name of the file.
        format: what the file says it is.
    """

    name: str
    work: str
    record: str
    format: str

    def entries(self, folder: Path) -> dict[str, Any]:
        """What the record must hold, for a folder that is complete but for it."""
        return {"format": self.format, "version": 1, "contents": _contents(folder)}

    def check_replaceable(self, output: Path, force: bool) -> None:
        """Stop where a folder must not be written; nothing but this command's own work is ever thrown away.

        Args:
            output: the folder to write.
            force: replace an earlier one.
        """
        if output.exists() and not output.is_dir():
            raise RamsesError(f"{output} is a file: name a folder to write the {self.name} to")
        if not output.exists() or not any(output.iterdir()):
            return
        if not force:
            raise RamsesError(f"{output} already exists: choose another folder or replace it with --force")
        written = self._recorded(output)
        if written is None:
            raise RamsesError(
                f"{output} is no {self.name} (no {self.record} of one): refusing to replace it; choose another folder"
            )
        for name, state in _contents(output).items():
            if name != self.record and state != written.get(name):
                what = "changed" if name in written else "added"
                raise RamsesError(
                    f"{output / name} was {what} after the {self.work}: refusing to replace the folder; choose another"
                )

    def _recorded(self, folder: Path) -> dict[str, str] | None:
        try:
            record = json.loads((folder / self.record).read_text(encoding="utf-8"))
            return dict(record["contents"]) if record["format"] == self.format else None
        except (OSError, ValueError, LookupError, TypeError):
            return None


def _contents(folder: Path) -> dict[str, str]:
    """Checksums of the files by their path in the folder; of a link, where it leads."""
    files = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return {path.relative_to(folder).as_posix(): _state(path) for path in files}


def _state(path: Path) -> str:
    return f"-> {os.readlink(path)}" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
