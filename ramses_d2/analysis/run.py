"""The folder of a prediction run: which images it is of, and their files, written image by image.

A killed run goes on where it stopped: ``pictures/NAME.json`` is written last of an image's files and says that it is
done. The tables of the whole run are made of these at the end.
"""

from __future__ import annotations

import glob
import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
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
from ramses_d2.files import IMAGE_SUFFIXES, atomic_file, natural_key
from ramses_d2.masks import encode_label_map, masks_in_boxes, paint_label_image, whole_boxes

# ---- the images to predict


class ImageFile(NamedTuple):
    """An image to predict: its file, its name without extension in the output, and px/mm (None = unknown)."""

    path: Path
    name: str
    resolution: float | None


def read_resolutions(source: str | None) -> float | dict[str, float] | None:
    """Resolutions from the command line: px/mm of all images, or a file -> those of each, by file and base name.

    The file is a metadata.json, or a CSV with the columns file_name (or baseimg) and res (or resolution).
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
        raise RamsesError(f"{path}: the res of {name} is not a number (px/mm) above 0")
    found: dict[str, float] = {}
    for name, value in zip(table["file_name"].astype(str), values, strict=True):
        if found.setdefault(name, value) != value:
            raise RamsesError(f"{path}: {name} has two resolutions, {found[name]:g} and {value:g}")
        found.setdefault(Path(name).stem, value)
    return found


def find_images(
    sources: Sequence[str], resolutions: float | dict[str, float] | None = None, *, recursive: bool = False
) -> list[ImageFile]:
    """The images of files, folders, globs ("belt/*.png", ``**`` for any depth) and dataset URIs.

    In natural order within each source, every file once, each with a name of its own. ``resolutions`` of
    :func:`read_resolutions` win over a data set's own; ``recursive`` looks into the folders of folders too.
    """
    found: dict[Path, tuple[Path, float | None]] = {}
    for source in sources:
        for path, own in _of_source(source, recursive):
            found.setdefault(path.resolve(), (path, own))  # a file that two sources name in different ways is one
    images: list[ImageFile] = []
    stems, taken = {path.stem for path, _ in found.values()}, set()
    for path, own in found.values():
        try:
            str(path).encode()
        except UnicodeEncodeError:  # Python keeps bytes that are not UTF-8 as surrogates
            raise RamsesError(f"{str(path)!r}: its name is not UTF-8 and fits in no table: rename it") from None
        if isinstance(resolutions, dict):
            own = resolutions.get(path.name, resolutions.get(path.stem))
            if own is None:
                raise RamsesError(f"{path.name} is not in the file that --resolution names: add its row")
        elif resolutions is not None:
            own = resolutions
        # Images of one name (a.jpg and a.png, or of two folders) get a number that makes no other one's name
        name, number = path.stem, 1
        while name in taken or (number > 1 and name in stems):
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name)
        images.append(ImageFile(path, name, own))
    return images


def _of_source(source: str, recursive: bool) -> list[tuple[Path, float | None]]:
    """Paths and px/mm of the images that one source names."""
    if "://" in source:
        dicts = {one["image_id"]: one for one in DatasetCatalog.get(register(source))}.values()
        return [(Path(one["file_name"]), one["resolution"]) for one in dicts]
    path = Path(source)
    if path.is_file():
        return [(path, None)]
    if path.is_dir():
        candidates = path.rglob("*") if recursive else path.iterdir()
    elif glob.has_magic(source):
        candidates = map(Path, glob.glob(source, recursive=True))
    else:
        raise RamsesError(f"{source}: no such image or folder")
    paths = [p for p in candidates if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    if not paths:
        hint = "" if recursive or not path.is_dir() else "; folders in it are searched with --recursive"
        raise RamsesError(f"{source}: no image in it ({', '.join(sorted(IMAGE_SUFFIXES))}){hint}")
    return [(p, None) for p in sorted(paths, key=natural_key)]


def in_given_order(images: Sequence[ImageFile], order_file: str) -> list[ImageFile]:
    """The images that a text names, in its order: a file name, path or name without extension a line.

    Blank lines and those that begin with # do not count.
    """
    path = Path(order_file)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise RamsesError(f"--order {path}: not readable as text ({type(error).__name__})") from error
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise RamsesError(f"--order {path}: no name in it")
    called: dict[str, list[ImageFile]] = {}
    for image in images:
        for name in {str(image.path), image.path.name, image.path.stem}:
            called.setdefault(name, []).append(image)
    ordered: dict[ImageFile, None] = {}
    for name in names:
        found = called.get(name, [])
        if len(found) != 1:
            raise RamsesError(f"--order {path}: {name} is {'none' if not found else 'several'} of the images")
        if found[0] in ordered:
            raise RamsesError(f"--order {path}: {name} is named twice")
        ordered[found[0]] = None
    return list(ordered)


# ---- what is known of one image


class ImageResult(NamedTuple):
    """What is known of one image."""

    labels: np.ndarray  # (H, W) uint16, every pixel with one owner
    table: pd.DataFrame  # particle table, one row per value of ``labels``
    classes: np.ndarray  # (K,) class id of label k + 1


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
    """Label image and particle table of an image's predicted instances on the CPU, with masks in either format.

    Instances without pred_masses have NaN grams; the resolution in px/mm may be NaN = unknown; the options are those of
    :func:`handle_fragments`.
    """
    scores = instances.scores.numpy().astype(float)
    has_mass = instances.has("pred_masses")
    masses = instances.pred_masses.numpy().astype(float) if has_mass else np.full(len(scores), math.nan)
    boxes = whole_boxes(instances.pred_boxes.tensor.numpy(), instances.image_size)  # Mask R-CNN's are not whole
    labels = paint_label_image(masks_in_boxes(instances.pred_masks, boxes), boxes, scores, instances.image_size)
    labels, parents, shares = handle_fragments(
        labels, mode=fragments, min_area_px=min_area_px, min_area_mm2=min_area_mm2, resolution=resolution
    )
    owner = parents - 1
    classes = instances.pred_classes.numpy()[owner]
    names = [class_names[index] for index in classes]
    table = particle_table(file_name, labels, names, masses[owner] * shares, scores[owner], resolution)
    return ImageResult(labels, table, classes)


def image_overlay(image: np.ndarray, result: ImageResult, class_names: Sequence[str]) -> np.ndarray:
    """Outlines and captions on an (H, W, 3) uint8 RGB image."""
    rows = result.table.set_index("label").reindex(range(1, len(result.classes) + 1))
    scores, masses = rows["score"].to_numpy(float), rows["mass"].to_numpy(float)
    return draw_instances(image, result.labels, result.classes, scores, masses, class_names=class_names, alpha=0)


def coco_instances(labels: np.ndarray, table: pd.DataFrame, class_ids: dict[str, int]) -> list[dict[str, Any]]:
    """COCO annotations without ids of the particles of a label image (H, W), one per row of their table.

    category_id, segmentation (RLE, counts as text), bbox (x, y, width, height), area (px), iscrowd, score, mass (g,
    None = unknown), label and, where the table has it, particle. ``class_ids``: class name -> COCO category id.
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


def write_coco_files(
    ground_truth: IO[str], results: IO[str], class_names: Sequence[str], image_files: Iterable[dict[str, Any]]
) -> None:
    """Write the images of a run one after another, as the masks of many need not fit in memory.

    ``ground_truth`` becomes a COCO ground truth (ids from 1; with score, mass and label of each annotation, res and
    resolution of each image), ``results`` has the same particles in COCO's results format. Each of ``image_files`` has
    file_name, height, width, resolution (px/mm or None) and instances, of :func:`coco_instances`.
    """
    categories = [{"id": index, "name": name} for index, name in enumerate(class_names, start=1)]
    info = {"description": "RAMSES predictions; resolution in px/mm, mass in g"}
    head = json.dumps({"info": info, "licenses": [], "categories": categories})
    ground_truth.write(f'{head[:-1]}, "annotations": [')
    results.write("[")
    images: list[dict[str, Any]] = []
    count = 0
    for number, image_file in enumerate(image_files, start=1):
        image = {key: image_file[key] for key in ("file_name", "height", "width", "resolution")}
        images.append({"id": number} | image | {"res": image_file["resolution"]})
        for instance in image_file["instances"]:
            separator = ",\n" if count else "\n"
            count += 1
            result = {key: instance[key] for key in ("category_id", "segmentation", "bbox", "score", "mass")}
            ground_truth.write(separator + json.dumps({"id": count, "image_id": number} | instance, allow_nan=False))
            results.write(separator + json.dumps({"image_id": number} | result, allow_nan=False))
    ground_truth.write(f'], "images": {json.dumps(images, allow_nan=False)}}}\n')
    results.write("]\n")


# ---- the folder

FORMAT, VERSION = "ramses-run", 1
# All that a run writes: --force replaces nothing else
ENTRIES = {
    *("annotations.csv", "coco_instances.json", "coco_results.json", "run.json"),
    *("labels", "overlays", "pictures", "windows"),
}
# What a write that was killed leaves behind, today and in older runs
_UNFINISHED = re.compile(rf"\.?({'|'.join(map(re.escape, sorted(ENTRIES)))})\.(unfinished-)?\d+")


class RunFolder:
    """Writes annotations.csv, labels/, overlays/, coco_instances.json, coco_results.json and run.json.

    Nothing is on disk before the first image. A folder that holds a run with the same ``settings`` (what predictions
    depend on: weights, config, thresholds) is continued, and images can be added to it. A run with other settings is
    replaced with ``force`` only, anything else never. ``about`` is what else run.json says (command, versions).

    Attributes:
        resumed: whether the folder held this run already.
        images: those in it, after :meth:`finish`: file_name, path, name, height, width, resolution, particles.
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
        # What a kill left half written is not in the way; it goes when the run is replaced
        names = {path.name for path in self.output.iterdir() if not _UNFINISHED.fullmatch(path.name)}
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
            raise RamsesError(f"{self.output} holds {min(names - ENTRIES)}, which is not of a run: not replaced")
        self._replaces = True
        return False

    def is_done(self, image: ImageFile, resolution: float | None) -> bool:
        """Whether an earlier start of this run has finished an image, as it is now and with this resolution."""
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
        """Make the folder, if this is not the run that is in it."""
        if self._started:
            return
        try:
            if self._replaces:
                self._empty()
            self.output.mkdir(parents=True, exist_ok=True)
            self._write_json("run.json", self._record(complete=False))  # first, so that a killed run is known as one
            for name in ("labels", "overlays", "pictures"):
                (self.output / name).mkdir(exist_ok=True)
        except OSError as error:
            raise RamsesError(f"{self.output}: cannot be made ({error.strerror}); choose another --output") from error
        self._started = True

    def _empty(self) -> None:
        """Remove a run from its folder, which may be a link or the current one and stays.

        What says that images are done goes first and run.json last, so that a kill leaves a run with less done in it.
        """
        paths = [path for path in self.output.iterdir() if path.name in ENTRIES or _UNFINISHED.fullmatch(path.name)]
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
        """Write the files of one image of ``size`` (height, width) and a resolution in px/mm (NaN = unknown).

        ``labels`` (H, W) uint16; ``table`` has the columns of a particle table and maybe more; ``overlay`` is uint8
        RGB; ``seen`` is what the COCO annotations are made of, see :func:`coco_instances`: default ``table``.
        """
        self.start()
        with self._file(f"labels/{image.name}.png", "wb") as stream:
            Image.fromarray(labels).save(stream, "PNG")
        if overlay is not None:
            with self._file(f"overlays/{image.name}.jpg", "wb") as stream:
                Image.fromarray(overlay).save(stream, "JPEG", quality=92)
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
        """Write the tables of all images and return the particle table.

        ``failed`` are images that could not be predicted, and why; ``notes`` sentences for a reader of the results.
        """
        self.start()
        paths = sorted((self.output / "pictures").glob("*.json"), key=lambda path: natural_key(path.stem))
        images, tables = [], []

        def parts() -> Iterator[dict[str, Any]]:
            for path in paths:
                part = self._read(f"pictures/{path.name}")
                kept = {key: part[key] for key in ("file_name", "path", "name", "height", "width", "resolution")}
                images.append(kept | {"particles": len(part["rows"])})
                tables.append(pd.DataFrame(part["rows"], columns=part["columns"]))
                yield part

        with self._file("coco_instances.json") as ground_truth, self._file("coco_results.json") as results:
            write_coco_files(ground_truth, results, self.class_names, parts())
        filled = [table for table in tables if len(table)] or tables[:1]
        table = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=COLUMNS)
        with self._file("annotations.csv") as stream:
            table.to_csv(stream, index=False, na_rep="nan", float_format="%.6g")
        failures = [{"path": path, "error": error} for path, error in failed]
        found = {"pictures": images, "failed": failures, "notes": list(notes)}
        self._write_json("run.json", self._record(complete=True) | found)
        self.images = images
        return table

    def _record(self, *, complete: bool) -> dict[str, Any]:
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        head = {"format": FORMAT, "version": VERSION, "complete": complete, "created": created}
        return head | self.about | {"settings": self.settings}

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.output / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RamsesError(f"{self.output / name}: not readable ({type(error).__name__})") from error
        return content if isinstance(content, dict) else {}

    def _write_json(self, name: str, content: Any) -> None:
        with self._file(name) as stream:
            stream.write(json.dumps(content, allow_nan=False))

    @contextmanager
    def _file(self, name: str, mode: str = "w") -> Iterator[IO[Any]]:
        path = self.output / name
        try:
            with atomic_file(path, mode) as stream:
                yield stream
        except OSError as error:
            raise RamsesError(f"{path}: cannot be written ({error.strerror})") from error


def _difference(old: Any, new: Any, where: str = "") -> str:
    """The first setting in which two runs differ, such as options.stream.overlap."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *new]:
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
