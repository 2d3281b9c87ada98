"""The folder of a prediction run: written image by image, so that a killed run goes on where it stopped.

``pictures/NAME.json`` is written last of an image's files and says that it is done; the tables of the whole run are
made of these at the end.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from PIL import Image

from ..errors import RamsesError
from .coco_output import CocoFiles, coco_instances
from .images import ImageFile
from .natural_order import natural_key
from .particles import COLUMNS

FORMAT, VERSION = "ramses-run", 1
# All that a run writes: --force replaces nothing else
ENTRIES = {
    *("annotations.csv", "coco_instances.json", "coco_results.json", "run.json"),
    *("labels", "overlays", "pictures", "windows"),
}
# What a write that was killed leaves behind
_PARTIAL = re.compile(rf"\.({'|'.join(map(re.escape, sorted(ENTRIES)))})\.\d+")


class RunFolder:
    """Writes annotations.csv, labels/, overlays/, coco_instances.json, coco_results.json and run.json.

    Nothing is on disk before the first image. A folder that holds a run with the same settings is continued; images
    can be added to it.

    Attributes:
        resumed: whether the folder held this run already.
        images: those in it, after :meth:`finish`: file_name, path, name, height, width, resolution, particles.

    Args:
        output: the folder.
        class_names: of the network's classes.
        settings: what the predictions depend on (weights, config, thresholds), ready for JSON.
        about: what else run.json is to say (command, versions), ready for JSON.
        force: replace a run with other settings, or do this one again.

    Raises:
        RamsesError: the folder holds something else, or a run with other settings and ``force`` is not given.
    """

    def __init__(
        self,
        output: str,
        class_names: Sequence[str],
        settings: dict[str, Any],
        about: dict[str, Any] | None = None,
        *,
        force: bool = False,
    ) -> None:
        self.output = Path(output)
        self.class_names = list(class_names)
        self.settings = json.loads(json.dumps(settings | {"classes": self.class_names}))
        self.about = about or {}
        self.images: list[dict[str, Any]] = []
        self._replaces = False
        self._started = self.resumed = self._resume(force)

    def _resume(self, force: bool) -> bool:
        """Check what is there; whether it is this run."""
        if not self.output.exists():
            return False
        if not self.output.is_dir():
            raise RamsesError(f"{self.output} is a file: choose another --output")
        # What a kill left half written is no obstacle; it goes when the next file of that name is written
        names = {path.name for path in self.output.iterdir() if not _PARTIAL.fullmatch(path.name)}
        if not names:
            return False
        if not force:
            settings = self._read("run.json").get("settings") if "run.json" in names else None
            if settings == self.settings:
                return True
            what = f"a run with another setting, {_difference(settings, self.settings)}" if settings else "other things"
            raise RamsesError(
                f"{self.output} exists and holds {what}: choose another --output, or replace it with --force"
            )
        if "run.json" not in names:  # the first file that a run writes
            raise RamsesError(f"{self.output} holds no run, it has no run.json: not replaced, choose another --output")
        if names - ENTRIES:
            raise RamsesError(
                f"{self.output} holds {sorted(names - ENTRIES)[0]}, which is no part of a run: not replaced"
            )
        self._replaces = True
        return False

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.output / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RamsesError(f"{self.output / name}: not readable ({type(error).__name__})") from error
        return content if isinstance(content, dict) else {}

    def is_done(self, image: ImageFile, resolution: float | None) -> bool:
        """Whether an earlier start of this run has finished an image, as it is now and with this resolution.

        Args:
            image: to be predicted.
            resolution: px/mm, None = unknown.

        Raises:
            RamsesError: the run has another image of this name.
        """
        if not self.has(image):
            return False
        done = self._read(f"pictures/{image.name}.json")
        if done.get("path") != str(image.path.resolve()):
            raise RamsesError(
                f"{self.output} holds the run of another image of this name, {done.get('path')}: choose another "
                f"--output for {image.path}, or replace the run with --force"
            )
        return done.get("resolution") == resolution and done.get("state") == _state(image.path)

    def has(self, image: ImageFile) -> bool:
        """Whether an earlier start has finished an image of this name, as it was then."""
        return self._started and (self.output / "pictures" / f"{image.name}.json").is_file()

    def start(self) -> None:
        """Make the folder, if this is not the run that is in it.

        Raises:
            RamsesError: it cannot be made or replaced.
        """
        if self._started:
            return
        try:
            if self._replaces:
                self._empty()
            self.output.mkdir(parents=True, exist_ok=True)
            self._write_json("run.json", self._run(complete=False))  # first, so that a killed run is known as one
            for name in ("labels", "overlays", "pictures"):
                (self.output / name).mkdir(exist_ok=True)
        except OSError as error:
            raise RamsesError(f"{self.output}: cannot be made ({error.strerror}); choose another --output") from error
        self._started = True

    def _empty(self) -> None:
        """Remove a run from its folder, which may be a link or the current one and stays.

        The records that say what is done go first and run.json last, so that a kill leaves a run with less done in it.
        """
        paths = [path for path in self.output.iterdir() if path.name in ENTRIES or _PARTIAL.fullmatch(path.name)]
        for path in sorted(paths, key=lambda path: (path.name == "run.json", path.name != "pictures")):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def add(
        self,
        image: ImageFile,
        size: tuple[int, int],
        resolution: float,
        labels: np.ndarray,
        table: pd.DataFrame,
        overlay: np.ndarray | None,
        seen: pd.DataFrame | None = None,
    ) -> None:
        """Write the files of one image.

        Args:
            image: its file and name.
            size: height and width, px.
            resolution: px/mm, NaN = unknown.
            labels: (H, W) uint16.
            table: its particles, columns of :data:`~ramses_d2.analysis.particles.COLUMNS` and maybe more.
            overlay: (h, w, 3) uint8 RGB, or None for none.
            seen: what its COCO annotations are made of, see :func:`~.coco_output.coco_instances`; default: ``table``.
        """
        self.start()
        self._write(f"labels/{image.name}.png", _encoded(labels, "PNG"))
        if overlay is not None:
            self._write(f"overlays/{image.name}.jpg", _encoded(overlay, "JPEG", quality=92))
        ids = {name: index for index, name in enumerate(self.class_names, start=1)}
        part = {
            "file_name": image.path.name,
            "path": str(image.path.resolve()),
            "state": _state(image.path),
            "name": image.name,
            "height": size[0],
            "width": size[1],
            "resolution": None if math.isnan(resolution) else resolution,
            "columns": list(table.columns),
            "rows": table.astype(object).where(table.notna(), None).to_numpy().tolist(),
            "instances": coco_instances(labels, table if seen is None else seen, ids),
        }
        self._write_json(f"pictures/{image.name}.json", part)

    def finish(self, failed: Sequence[tuple[str, str]] = (), notes: Sequence[str] = ()) -> pd.DataFrame:
        """Write the tables of all images.

        Args:
            failed: images that could not be predicted, and why.
            notes: what else a reader of the results has to know, one sentence each.

        Returns:
            the particle table of the run.
        """
        self.start()
        names = sorted((self.output / "pictures").glob("*.json"), key=lambda path: natural_key(path.stem))
        images, tables = [], []
        with self._partial("coco_instances.json") as truth, self._partial("coco_results.json") as results:
            coco = CocoFiles(truth, results, self.class_names)
            for path in names:
                part = self._read(f"pictures/{path.name}")
                coco.add(part)
                kept = {key: part[key] for key in ("file_name", "path", "name", "height", "width", "resolution")}
                images.append(kept | {"particles": len(part["rows"])})
                tables.append(pd.DataFrame(part["rows"], columns=part["columns"]))
            coco.finish()
        filled = [table for table in tables if len(table)] or tables[:1]
        table = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=COLUMNS)
        with self._partial("annotations.csv") as stream:
            table.to_csv(stream, index=False, na_rep="nan", float_format="%.6g")
        failures = [{"path": path, "error": error} for path, error in failed]
        found = {"pictures": images, "failed": failures, "notes": list(notes)}
        self._write_json("run.json", self._run(complete=True) | found)
        self.images = images
        return table

    def _run(self, *, complete: bool) -> dict[str, Any]:
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        head = {"format": FORMAT, "version": VERSION, "complete": complete, "created": created}
        return head | self.about | {"settings": self.settings}

    def _write_json(self, name: str, content: Any) -> None:
        self._write(name, json.dumps(content, allow_nan=False).encode())

    def _write(self, name: str, content: bytes) -> None:
        """Write a file under a temporary name, then rename it: a kill leaves no half file."""
        with self._partial(name, "wb") as stream:
            stream.write(content)

    @contextmanager
    def _partial(self, name: str, mode: str = "w") -> Iterator[IO[Any]]:
        path = self.output / name
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with partial.open(mode, encoding=None if "b" in mode else "utf-8") as stream:
                yield stream
            partial.replace(path)
        except OSError as error:
            raise RamsesError(f"{path}: cannot be written ({error.strerror})") from error
        finally:
            partial.unlink(missing_ok=True)


def _difference(old: Any, new: Any, where: str = "") -> str:
    """The first setting in which two runs differ, such as options.stream.overlap."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
    return where or "setting"


def _state(path: Path) -> list[int] | None:
    """Size and time of change of a file: whether it is the one that was predicted; None where it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _encoded(image: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()
