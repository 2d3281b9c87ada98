"""The folder of a prediction run: written image by image, so that a killed run goes on where it stopped.

``pictures/NAME.json`` is written last of an image's files and says that it is done; the tables of the whole run are
made of these at the end.
"""

from __future__ import annotations

import glob
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
from typing import IO, Any, NamedTuple

import numpy as np
import pandas as pd
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances
from PIL import Image

from ramses_d2.analysis.particles import COLUMNS, handle_fragments, particle_table
from ramses_d2.data.catalog import register
from ramses_d2.draw import draw_instances
from ramses_d2.errors import RamsesError
from ramses_d2.files import IMAGE_SUFFIXES, natural_key
from ramses_d2.masks import encode_label_map, masks_in_boxes, paint_label_image, whole_boxes


class ImageFile(NamedTuple):
    """An image to predict: its file, its name without extension in the output, and px/mm (None = unknown)."""

    path: Path
    name: str
    resolution: float | None


def read_resolutions(source: str | None) -> float | dict[str, float] | None:
    """Resolutions from the command line.

    Args:
        source: px/mm of all images as a number; or a file with those of each: a metadata.json, or a CSV with the
            columns ``file_name`` (or ``baseimg``) and ``res`` (or ``resolution``).

    Returns:
        a number, or file name and base name -> number; None for None.

    Raises:
        RamsesError: no number above 0 and no such file, or a file without these columns.
    """
    if source is None:
        return None
    path = Path(source)
    if not path.is_file():
        try:
            value = float(source)
        except ValueError:
            raise RamsesError(f"--resolution {source}: neither a number (px/mm) nor a file") from None
        if not (math.isfinite(value) and value > 0):
            raise RamsesError(f"--resolution {source}: give the px/mm of the images, a number above 0")
        return value
    try:
        if path.suffix.lower() == ".json":
            table = pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))["images"])
        else:
            table = pd.read_csv(path)
    except (ValueError, LookupError, TypeError, OSError, pd.errors.ParserError) as error:
        raise RamsesError(f"{path}: neither a metadata.json nor a CSV ({type(error).__name__})") from error
    table = table.rename(columns={"baseimg": "file_name", "resolution": "res"})
    if not {"file_name", "res"} <= set(table.columns):
        raise RamsesError(f"{path}: needs the columns file_name and res (px/mm), it has {', '.join(table.columns)}")
    values = pd.to_numeric(table["res"], errors="coerce")
    wrong = ~((values > 0) & (values < math.inf))
    if wrong.any():
        name = table.loc[wrong, "file_name"].iloc[0]
        raise RamsesError(f"{path}: the res of {name} is no px/mm above 0")
    found = {}
    for name, value in zip(table["file_name"].astype(str), values, strict=True):
        if found.setdefault(name, value) != value:
            raise RamsesError(f"{path}: {name} has two resolutions, {found[name]:g} and {value:g}")
        found.setdefault(Path(name).stem, value)
    return found


def find_images(
    sources: Sequence[str], resolutions: float | dict[str, float] | None = None, *, recursive: bool = False
) -> list[ImageFile]:
    """Resolve images, folders, patterns and dataset URIs.

    Args:
        sources: files, folders, globs (``"belt/*.png"``, ``**`` for any depth) or ``ramses://`` and ``coco://`` URIs.
        resolutions: see :func:`read_resolutions`; wins over a data set's own.
        recursive: look into the folders of folders too.

    Returns:
        images in natural order within each source, every file once, each with a name of its own.

    Raises:
        RamsesError: nothing there, no image in it, or an image that the file of resolutions does not name.
    """
    found: dict[Path, tuple[Path, float | None]] = {}
    for source in sources:
        for path, own in _of_source(source, recursive):
            found.setdefault(path.resolve(), (path, own))  # a file that two sources name in different ways is one
    images = []
    for path, own in found.values():
        if _is_undecodable(str(path)):
            raise RamsesError(f"{str(path)!r}: its name is not UTF-8 and fits in no table: rename it")
        if isinstance(resolutions, dict):
            own = resolutions.get(path.name, resolutions.get(path.stem))
            if own is None:
                raise RamsesError(f"{path.name} is not in the file that --resolution names: add its row")
        elif resolutions is not None:
            own = resolutions
        images.append(ImageFile(path, path.stem, own))
    return _with_unique_names(images)


def in_given_order(images: Sequence[ImageFile], order_file: str) -> list[ImageFile]:
    """Bring images into the order of a list.

    Args:
        images: of :func:`find_images`.
        order_file: text, one file name, path or name without extension a line; blank lines and those that begin with #
            do not count.

    Returns:
        the images that the list names.

    Raises:
        RamsesError: no such file, no name in it, a name twice, or one that is none or several of the images.
    """
    path = Path(order_file)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise RamsesError(f"--order {path}: not readable as text ({type(error).__name__})") from error
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise RamsesError(f"--order {path}: no name in it")
    called: dict[str, list[int]] = {}
    for index, image in enumerate(images):
        for name in {str(image.path), image.path.name, image.path.stem}:
            called.setdefault(name, []).append(index)
    ordered: dict[int, ImageFile] = {}
    for name in names:
        found = called.get(name, [])
        if len(found) != 1:
            raise RamsesError(f"--order {path}: {name} is {'none' if not found else 'several'} of the images")
        if found[0] in ordered:
            raise RamsesError(f"--order {path}: {name} is named twice")
        ordered[found[0]] = images[found[0]]
    return list(ordered.values())


def _is_undecodable(name: str) -> bool:
    """Whether a name from the file system holds bytes that are no UTF-8 (Python keeps them as surrogates)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def _of_source(source: str, recursive: bool) -> list[tuple[Path, float | None]]:
    if "://" in source:
        records = {record["image_id"]: record for record in DatasetCatalog.get(register(source))}.values()
        return [(Path(record["file_name"]), record["resolution"]) for record in records]
    path = Path(source)
    if path.is_file():
        return [(path, None)]
    if path.is_dir():
        candidates = path.rglob("*") if recursive else path.iterdir()
    elif glob.has_magic(source):
        candidates = (Path(name) for name in glob.glob(source, recursive=True))
    else:
        raise RamsesError(f"{source}: no such image or folder")
    paths = [p for p in candidates if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    if not paths:
        hint = "" if recursive or not path.is_dir() else "; folders in it are searched with --recursive"
        raise RamsesError(f"{source}: no image in it ({', '.join(sorted(IMAGE_SUFFIXES))}){hint}")
    return [(p, None) for p in sorted(paths, key=natural_key)]


def _with_unique_names(images: list[ImageFile]) -> list[ImageFile]:
    """Tell images of one name apart (a.jpg and a.png, or two folders) by a number that no other one has."""
    taken: set[str] = set()
    own = {image.name for image in images}
    unique = []
    for image in images:
        name, number = image.name, 1
        while name in taken or (number > 1 and name in own):
            number += 1
            name = f"{image.name}-{number}"
        taken.add(name)
        unique.append(image._replace(name=name))
    return unique


def coco_instances(labels: np.ndarray, table: pd.DataFrame, class_ids: dict[str, int]) -> list[dict[str, Any]]:
    """COCO annotations of the particles of one image, without ids.

    Args:
        labels: (H, W) label image.
        table: its rows of the particle table.
        class_ids: class name -> COCO category id.

    Returns:
        one dict per row: category_id, segmentation (RLE, counts as text), bbox (x, y, width, height), area (px),
        iscrowd, score, mass (g, None = unknown), label and, where the table has it, particle.
    """
    rles = encode_label_map(labels, table["label"].tolist())
    return [
        {
            "category_id": class_ids[row["class"]],
            "segmentation": rle | {"counts": rle["counts"].decode("ascii")},
            "bbox": [int(row["y0"]), int(row["x0"]), int(row["y1"] - row["y0"]), int(row["x1"] - row["x0"])],
            "area": int(row["area"]),
            "iscrowd": 0,
            "score": float(row["score"]),
            "mass": None if pd.isna(row["mass"]) else float(row["mass"]),
            "label": int(row["label"]),
        }
        | ({"particle": int(row["particle"])} if "particle" in row else {})
        for row, rle in zip(table.to_dict("records"), rles, strict=True)
    ]


class CocoFiles:
    """Writes the images of a run as COCO files, one after another: outlines of many images need not fit in memory.

    The first file is a COCO ground truth (ids from 1; with score, mass and label of each annotation, res and resolution
    of each image), the second has the same particles in COCO's results format.

    Args:
        truth, results: text files to fill.
        class_names: in order; category ids count from 1.
    """

    def __init__(self, truth: IO[str], results: IO[str], class_names: Sequence[str]) -> None:
        categories = [{"id": index, "name": name} for index, name in enumerate(class_names, start=1)]
        info = {"description": "RAMSES predictions; resolution in px/mm, mass in g"}
        head = json.dumps({"info": info, "licenses": [], "categories": categories})
        truth.write(f'{head[:-1]}, "annotations": [')
        results.write("[")
        self._truth, self._results = truth, results
        self._images: list[dict[str, Any]] = []
        self._count = 0

    def add(self, image_file: dict[str, Any]) -> None:
        """Write an image: "file_name", "height", "width", "resolution" (px/mm or None) and :func:`coco_instances`."""
        image = {key: image_file[key] for key in ("file_name", "height", "width", "resolution")}
        number = len(self._images) + 1
        self._images.append({"id": number} | image | {"res": image_file["resolution"]})
        for instance in image_file["instances"]:
            separator = ",\n" if self._count else "\n"
            self._count += 1
            annotation = {"id": self._count, "image_id": number} | instance
            self._truth.write(separator + json.dumps(annotation, allow_nan=False))
            kept = ("category_id", "segmentation", "bbox", "score", "mass")
            result = {"image_id": number} | {key: instance[key] for key in kept}
            self._results.write(separator + json.dumps(result, allow_nan=False))

    def finish(self) -> None:
        """Write what comes last."""
        self._truth.write(f'], "images": {json.dumps(self._images, allow_nan=False)}}}\n')
        self._results.write("]\n")


class ImageResult(NamedTuple):
    """What is known of one image.

    Attributes:
        labels: (H, W) uint16 label image, every pixel with one owner.
        table: particle table, one row per value of ``labels``.
        classes: (K,) class id of label k + 1.
    """

    labels: np.ndarray
    table: pd.DataFrame
    classes: np.ndarray


def image_result(
    file_name: str,
    instances: Instances,
    class_names: Sequence[str],
    resolution: float,
    *,
    fragments: str = "drop",
    min_area_px: float = 0,
    min_area_mm2: float | None = None,
) -> ImageResult:
    """Make label image and particle table of an image's instances.

    Args:
        file_name: for the table.
        instances: prediction on the CPU: pred_boxes, pred_masks in either format, scores, pred_classes and, of a
            network that weighs, pred_masses.
        class_names: of the class ids.
        resolution: px/mm, NaN = unknown.
        fragments: what happens to disconnected parts, see :func:`~ramses_d2.analysis.fragments.handle_fragments`.
        min_area_px, min_area_mm2: smaller parts are dropped.
    """
    scores = instances.scores.numpy().astype(float)
    masses = instances.pred_masses.numpy().astype(float) if instances.has("pred_masses") else None
    masses = np.full(len(scores), math.nan) if masses is None else masses
    classes = instances.pred_classes.numpy()
    boxes = whole_boxes(instances.pred_boxes.tensor.numpy(), instances.image_size)  # Mask R-CNN's are not whole
    labels = paint_label_image(masks_in_boxes(instances.pred_masks, boxes), boxes, scores, instances.image_size)
    labels, parents, shares = handle_fragments(
        labels, mode=fragments, min_area_px=min_area_px, min_area_mm2=min_area_mm2, resolution=resolution
    )
    owner = parents - 1
    classes, scores, masses = classes[owner], scores[owner], masses[owner] * shares
    names = [class_names[index] for index in classes]
    table = particle_table(file_name, labels, names, masses, scores, resolution)
    return ImageResult(labels, table, classes)


def image_overlay(image: np.ndarray, result: ImageResult, class_names: Sequence[str]) -> np.ndarray:
    """Outlines and captions on an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        result: of this image.
        class_names: of the class ids.
    """
    captions = result.table.set_index("label").reindex(range(1, len(result.classes) + 1))
    scores, masses = captions["score"].to_numpy(float), captions["mass"].to_numpy(float)
    return draw_instances(image, result.labels, result.classes, scores, masses, class_names=class_names, alpha=0)


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
