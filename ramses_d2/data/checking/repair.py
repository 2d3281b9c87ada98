"""Write a mended copy of a checked folder, with a log of every change.

What the pixels say wins: boxes, areas and sizes are recomputed, rows without pixels and pixels without rows go. What
they do not say (a missing image, an unknown class, a mass) stays as it is.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ramses_d2.data.checking.check import CheckedFolder
from ramses_d2.data.checking.repair_images import Change, repair_image
from ramses_d2.data.checking.repair_rows import repair_rows
from ramses_d2.errors import RamsesError
from ramses_d2.files import OwnFolder, folder_swap

LOG = "fixes.csv"
MENDED_COPY = OwnFolder("mended copy", "fixes.json", "ramses-mended-copy")
_LOG_HEADER = ("file", "row", "label", "what", "from", "to")


def repair_folder(
    checked: CheckedFolder,
    output: str | Path,
    *,
    overwrite: bool = False,
    workers: int = 4,
    progress: bool = False,
) -> list[Change]:
    """Write a mended copy of a folder, ``fixes.csv``, the log of what was changed, and ``fixes.json``, its checksums.

    Copied are annotations.csv, images/, labels/ and the other files of the folder, not other folders in it. Boxes are
    written as the original does: rows in x0, x1, columns in y0, y1.

    Args:
        checked: one of :attr:`ramses_d2.data.checking.CheckReport.folders`.
        output: folder to create.
        overwrite: replace an earlier mended copy that nobody changed since.
        workers: images written at once.
        progress: show a progress bar on a terminal.

    Returns:
        the changes.

    Raises:
        RamsesError: ``output`` exists (and is not to be replaced, or is no mended copy, or was changed since), or is in
            the folder itself.
    """
    source, output = checked.contents.folder, Path(output)
    check_output(source, output, overwrite)
    with folder_swap(output) as folder:
        for path in sorted(source.iterdir()):
            if path.is_file():
                shutil.copy2(path, folder / path.name)
        changes, particles = _repair_images(checked, folder, workers, progress)
        if checked.contents.scan is not None:
            changes += repair_rows(checked, particles, folder / "annotations.csv")
        changes += _repair_split(source, output, folder)
        _write_log(changes, folder / LOG)
        dataset_dict = json.dumps(MENDED_COPY.entries(), indent=1, ensure_ascii=False)
        (folder / MENDED_COPY.marker).write_text(dataset_dict + "\n", encoding="utf-8")
    return changes


def _repair_images(checked: CheckedFolder, folder: Path, workers: int, progress: bool) -> tuple[list[Change], dict]:
    """Copy or mend the images and label images; returns the changes and the particles of mended label images."""
    for name in ("images", "labels"):
        if (checked.contents.folder / name).is_dir():
            (folder / name).mkdir()
            repaired = {path.name for path in getattr(checked.contents, name).values()}
            for path in sorted((checked.contents.folder / name).iterdir()):
                if path.is_file() and path.name not in repaired:
                    shutil.copy2(path, folder / name / path.name)
    bases = checked.contents.base_names
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(partial(repair_image, checked, folder), bases)
        bar = tqdm(results, total=len(bases), desc="mending", unit="picture", disable=None if progress else True)
        results = list(bar)
    changes = [change for made, _ in results for change in made]
    return changes, {base: found for base, (_, found) in zip(bases, results, strict=True) if found is not None}


def _repair_split(source: Path, output: Path, folder: Path) -> list[Change]:
    """Make the folders that a split.json names as seen from the copy; its own folder is the copy."""
    path = folder / "split.json"
    try:
        split = json.loads(path.read_text(encoding="utf-8"))
        folders = {key: Path(root) for key, root in split["folders"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []  # there is none, the original's has none, or it is broken
    changes = []
    for key, root in folders.items():
        target = (source / root).resolve()
        seen = "." if target == source.resolve() else os.path.relpath(target, output.resolve())
        if seen != os.path.normpath(root):
            split["folders"][key] = seen
            changes.append(Change(path.name, f"folder {key} as seen from here", str(root), seen))
    if changes:
        path.write_text(json.dumps(split, indent=1) + "\n", encoding="utf-8")
    return changes


def _write_log(changes: list[Change], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_LOG_HEADER)
        writer.writerows((each.file, each.row, each.label, each.what, each.old, each.new) for each in changes)


def check_output(source: Path, output: Path, overwrite: bool) -> None:
    """Stop where a mended copy must not be written; to be called before long work, too.

    Args:
        source: the folder to mend.
        output: folder to create.
        overwrite: replace an earlier mended copy that nobody changed since.

    Raises:
        RamsesError: ``output`` exists (and is not to be replaced, or is no mended copy, or was changed since), or is in
            the folder itself.
    """
    if output.resolve().is_relative_to(source.resolve()) or source.resolve().is_relative_to(output.resolve()):
        raise RamsesError(f"{output}: choose a folder outside {source}, whose mended copy it is to hold")
    MENDED_COPY.check_replaceable(output, overwrite)
