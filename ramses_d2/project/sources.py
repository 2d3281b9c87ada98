"""What ``--data`` names: a RAMSES folder, a split file, COCO files or addresses, and the sets to make of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.coco_file import read_coco_file
from ..data.dataset_uri import coco_uri
from ..data.json_file import read_json
from ..data.split_file import subset_names
from ..data.split_folders import split_folders
from ..errors import RamsesError

TRAIN, VALID, TEST = "train", "valid", "test"
_FILES = {TRAIN: ("train.json",), VALID: ("valid.json", "val.json"), TEST: ("test.json",)}
_LABELS = "label.txt"


@dataclass(frozen=True)
class ProjectData:
    """Addresses of the data sets of a project.

    Attributes:
        train, valid, test: addresses, see :mod:`ramses_d2.data.dataset_uri`; ``test`` "" = none.
        sample: address that exists already and looks like the training set: that, or all that is divided.
        files: to be written into the project's folder, name -> content for JSON.
        split_folder: RAMSES folder whose split file is to be written into the project's folder; None = not needed.
        share: of the images for validation, where they are divided here.
    """

    train: str
    valid: str
    test: str = ""
    sample: str = ""
    files: dict[str, Any] = field(default_factory=dict)
    split_folder: Path | None = None
    share: float = 0.2

    def training_images(self, images: int) -> int:
        """Of the images of :attr:`sample`, those to train on."""
        divided = self.split_folder is not None or bool(self.files)
        return max(round((1 - self.share) * images), 1) if divided else images

    def write(self, folder: Path, seed: int = 0) -> list[str]:
        """Write what the addresses need; returns the names of the files."""
        for name, content in self.files.items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        if self.split_folder is None:
            return list(self.files)
        split_folders([self.split_folder], folder / "split.json", valid=self.share, seed=seed)
        return [*self.files, "split.json"]


def find_data(
    data: str,
    folder: Path,
    *,
    valid: str = "",
    test: str = "",
    images: str = "",
    labels: str = "",
    share: float = 0.2,
    seed: int = 0,
) -> ProjectData:
    """Find out what ``data`` is.

    Args:
        data: a RAMSES folder, a folder with train.json, valid.json and maybe test.json and label.txt, a split file, a
            COCO file, or an address (``ramses://...``, ``coco://...``).
        folder: of the project, where split files will be.
        valid, test: COCO files or addresses of these sets; else ``data`` is divided, or has them.
        images: folder of the images of COCO files; default: beside the file, or images/ there.
        labels: label.txt with the class order of COCO files.
        share: of the images that are for validation, where they are divided here.
        seed: same seed, same division.

    Raises:
        RamsesError: nothing of this kind, or a set is missing.
    """
    if not 0 < share < 1:
        raise RamsesError(f"--valid-share {share:g}: give a number between 0 and 1, such as 0.2")
    coco = _CocoAddress(images, labels)
    if "://" in data:
        sets = {TRAIN: data, VALID: valid or _sibling(data), TEST: test}
        if not sets[VALID]:
            raise RamsesError(f"{data}: name the address of the validation set with --valid")
        return ProjectData(data, coco.of(sets[VALID]), coco.of(sets[TEST]), data)
    path = Path(data)
    if not path.exists():
        raise RamsesError(f"{data}: no such folder, file or address")
    if path.is_dir():
        if (path / "annotations.csv").is_file():
            whole = f"ramses://{path.resolve()}"
            if valid:
                return ProjectData(whole, coco.of(valid), coco.of(test), whole)
            split = f"ramses://{(folder / 'split.json').resolve()}"
            return ProjectData(f"{split}#{TRAIN}", f"{split}#{VALID}", coco.of(test), whole, {}, path, share)
        found = {name: _first(path, files) for name, files in _FILES.items()}
        if found[TRAIN]:
            path, valid, test = found[TRAIN], valid or str(found[VALID] or ""), test or str(found[TEST] or "")
        else:
            candidates = sorted(p for p in path.glob("*.json") if _is_coco(p))
            if len(candidates) != 1:
                raise RamsesError(
                    f"{data}: neither a RAMSES folder (annotations.csv, labels/) nor one with train.json; of COCO "
                    f"files it has {len(candidates)}: name one"
                )
            path = candidates[0]
        if not labels and (path.parent / _LABELS).is_file():
            coco = _CocoAddress(images, str(path.parent / _LABELS))
    content = read_json(path)
    if not _is_coco_content(content):
        names = subset_names(path)
        if not {TRAIN, VALID} <= set(names):
            raise RamsesError(f"{path}: a split file needs the subsets train and valid, it has {', '.join(names)}")
        address = f"ramses://{path.resolve()}"
        final = f"{address}#{TEST}" if TEST in names else coco.of(test)
        return ProjectData(f"{address}#{TRAIN}", f"{address}#{VALID}", final, f"{address}#{TRAIN}")
    whole = coco.of(str(path))
    if valid:
        return ProjectData(whole, coco.of(valid), coco.of(test), whole)
    read_coco_file(path, labels or None)  # every entry has its ids, or one line says which has not
    parts = divide_coco(content, share, seed)
    image_files = coco.images_of(path)
    files = {f"{name}.json": part for name, part in zip((TRAIN, VALID), parts, strict=True)}
    addresses = [coco.of(str(folder / name), image_files) for name in files]
    return ProjectData(*addresses, coco.of(test), whole, files, share=share)


@dataclass(frozen=True)
class _CocoAddress:
    """How COCO files become addresses."""

    images: str
    labels: str

    def images_of(self, json_path: Path) -> Path:
        if self.images:
            return Path(self.images).resolve()
        beside = json_path.parent / "images"
        names = [image.get("file_name", "") for image in read_json(json_path).get("images", [])[:1]]
        return (beside if names and (beside / str(names[0])).is_file() else json_path.parent).resolve()

    def of(self, source: str, images: Path | None = None) -> str:
        """Address of a COCO file; what is an address already, or nothing, stays."""
        if not source or "://" in source:
            return source
        path = Path(source)
        images = images or self.images_of(path)
        return coco_uri(path.resolve(), images.resolve(), Path(self.labels).resolve() if self.labels else None)


def divide_coco(content: dict[str, Any], share: float, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide the images of a COCO data set at random; categories and what else it has stay in both.

    Raises:
        RamsesError: fewer than two images.
    """
    count = len(content["images"])
    if count < 2:
        raise RamsesError(f"{count} image cannot be divided into training and validation: name both sets")
    chosen = np.random.default_rng(seed).permutation(count)[: min(max(round(share * count), 1), count - 1)]
    is_valid = np.isin(np.arange(count), chosen)
    parts = []
    for wanted in (False, True):
        images = [image for image, side in zip(content["images"], is_valid, strict=True) if side == wanted]
        ids = {image["id"] for image in images}
        annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in ids]
        parts.append({**content, "images": images, "annotations": annotations})
    return parts[0], parts[1]


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _is_coco(path: Path) -> bool:
    try:
        return _is_coco_content(read_json(path))
    except RamsesError:
        return False


def _is_coco_content(content: Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    )


def _sibling(address: str) -> str:
    """The validation subset of the split file whose training subset is named."""
    head, _, subset = address.rpartition("#")
    return f"{head}#{VALID}" if subset == TRAIN else ""
