"""Write a converted data set to a temporary name, then rename it; say what was written.

A folder gets ``conversion.json``: what it was made from, what was changed on the way, and checksums by which a later
``--force`` knows that it throws nothing away but its own work.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ramses_d2.data.convert.source import Source, SourceImage, stored_size
from ramses_d2.data.images import save_upright
from ramses_d2.errors import RamsesError
from ramses_d2.files import OwnFolder, atomic_path, folder_swap

IMAGE_MODES = ("copy", "link", "none")
CONVERSION = OwnFolder("converted data set", "conversion.json", "ramses-conversion")


@dataclass
class Report:
    """What a conversion did.

    Attributes:
        origin: what was read.
        output: the file or folder written.
        target: its format.
        images: their number.
        objects: number of objects per class, unused classes included.
        notes: what was changed or left out, and how often.
        findings: per-picture remarks.
        address: the data set's address in a config; None if it cannot be trained on.
    """

    origin: str
    output: Path
    target: str
    images: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    address: str | None = None

    def lines(self) -> list[str]:
        """The report as text, one fact a line."""
        classes = ", ".join(f"{name} {count}" for name, count in self.objects.items())
        lines = [f"wrote {self.images} images, {sum(self.objects.values())} objects ({classes}) to {self.output}"]
        lines += [f"  {count} {note}" for note, count in self.notes.items() if count]
        return lines + ([f"  use {self.address}"] if self.address else [])

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "source": self.origin,
            "target": self.target,
            "pictures": self.images,
            "objects": dict(self.objects),
            "notes": {note: count for note, count in self.notes.items() if count},
            "findings": self.findings,
        }


def reported(source: Source, report: Report, progress: bool = False) -> Iterator[SourceImage]:
    """The images of ``source``, counted into ``report``; notes and findings follow after the last one."""
    report.objects.update(dict.fromkeys(source.classes, 0))
    bar = tqdm(source, total=source.count, desc="converting", unit="picture", disable=None if progress else True)
    for image in bar:
        _check_outside(image.path, report.output)
        report.images += 1
        report.objects.update(image.objects["class"].tolist())
        yield image
    report.notes.update(source.notes)
    report.findings.extend(source.findings)


@contextmanager
def new_folder(output: str | Path, report: Report, force: bool) -> Iterator[Path]:
    """A folder to fill beside ``output``, renamed to it at the end and removed on failure.

    Args:
        output: the folder to write.
        report: written into it.
        force: replace a folder that a conversion wrote and nobody changed since.

    Raises:
        RamsesError: it exists and is not to be, or must not be, replaced.
    """
    output = Path(output)
    CONVERSION.check_replaceable(output, force)
    _check_outside(Path(report.origin), output)
    with folder_swap(output) as folder:
        yield folder
        write_json(folder / CONVERSION.marker, report.to_json() | CONVERSION.entries())


@contextmanager
def new_file(output: Path, replaceable: bool, force: bool) -> Iterator[Path]:
    """A file to write beside ``output``, renamed to it at the end and removed on failure.

    Args:
        output: the file to write.
        replaceable: whether an existing one is a conversion's own work.
        force: replace it.

    Raises:
        RamsesError: it exists and is not to be, or must not be, replaced.
    """
    if output.exists():
        if not force:
            raise RamsesError(f"{output} already exists: choose another name or replace it with --force")
        if not replaceable:
            raise RamsesError(f"{output} was not written by a conversion: refusing to replace it; choose another name")
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(output) as unfinished:
        yield unfinished


def place_image(image: SourceImage, folder: Path, mode: str, upright: bool, notes: Counter[str]) -> str:
    """Copy or link an image into ``folder`` under its base name.

    Args:
        image: the image.
        folder: existing folder.
        mode: "copy", "link" (a symbolic link) or "none".
        upright: write an image with an EXIF orientation anew, turned, for readers that ignore it.
        notes: counts the images written anew.

    Returns:
        its file name there.

    Raises:
        RamsesError: an unknown mode, or the link cannot be made.
    """
    if mode not in IMAGE_MODES:
        raise RamsesError(f"images {mode!r}: choose from {', '.join(IMAGE_MODES)}")
    target = folder / f"{image.name}{image.path.suffix}"
    if mode == "none":
        return target.name
    if upright and stored_size(image.path)[1] != 1:
        save_upright(image.path, target)
        notes["images with an EXIF orientation written anew, upright"] += 1
    elif mode == "copy":
        shutil.copyfile(image.path, target)
    else:
        try:
            target.symlink_to(image.path.resolve())
        except OSError as error:
            raise RamsesError(f"{target}: cannot link ({error.strerror}); copy the images instead") from None
    return target.name


def write_label_image(label_map: Any, path: Path) -> None:
    """Write a label map (H, W) as 16-bit grey PNG."""
    Image.fromarray(label_map.astype("uint16")).save(path)


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    """Write standard JSON: an unknown number (NaN) becomes null."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(_without_nan(content), indent=indent, separators=separators, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_outside(path: Path, output: Path) -> None:
    """What is read must not lie in the folder that is to be replaced, nor be a link that does."""
    if output.is_dir() and path.exists():  # the address of a data set is no path
        places = path.resolve(), path.parent.resolve() / path.name
        if any(place.is_relative_to(output.resolve()) for place in places):
            raise RamsesError(f"{output} holds what is to be converted ({path}): choose another folder")
