"""Read and write the split files of a :class:`ramses_d2.data.dataset_manager.DatasetManager`, in both formats."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ramses_d2.data.folder import (
    MAX_LABEL,
    build_dataset_dicts,
    folder_class_names,
    load_folder,
    read_annotations,
)
from ramses_d2.data.splits import (
    BATCH,
    FORMAT,
    assign_sides,
    draw_capped,
    find_folder,
    group_keys,
    group_numbers,
    has_batches,
    is_original,
    read_split,
    write_original_split,
    write_split,
)
from ramses_d2.errors import RamsesError
from ramses_d2.files import IMAGE_SUFFIXES, base_name

EmptyImage = tuple[str, str, float]  # folder, base name, resolution in px/mm


def read_folders(folders: Sequence[str | Path]) -> pd.DataFrame:
    """The annotations of RAMSES folders in one table, with ``folder`` (absolute path), indexed by CSV row."""
    paths = [Path(folder).resolve() for folder in folders]
    if not paths or len(set(paths)) < len(paths):
        raise RamsesError(f"data set folders {', '.join(map(str, folders)) or '(none)'}: name each of them once")
    tables = []
    for path in paths:
        if not path.is_dir():
            raise RamsesError(f"{path}: no such folder; a RAMSES folder holds annotations.csv, images/ and labels/")
        tables.append(read_annotations(path / "annotations.csv").assign(folder=str(path)))
    return pd.concat(tables)


def common_class_names(folders: Sequence[str | Path], table: pd.DataFrame) -> list[str]:
    """Class order of several folders: that of their classes.json, else the sorted names in the table."""
    orders = {
        path: folder_class_names(path.parent)
        for path in (Path(folder) / "classes.json" for folder in folders)
        if path.is_file()
    }
    class_names = next(iter(orders.values()), sorted(table["class"].unique()))
    for path, order in orders.items():
        if order != class_names:
            raise RamsesError(f"{path} differs from {next(iter(orders))}; the folders of a split have one class order")
    return class_names


def find_empty_images(table: pd.DataFrame, folders: Sequence[str | Path]) -> list[EmptyImage]:
    """Images that have a label image, but no rows in the table of :func:`read_folders`."""
    found: list[EmptyImage] = []
    for folder in map(Path, folders):
        path = folder.resolve()
        rows = table[table["folder"] == str(path)]
        images, labelled = _files(path)
        if empty := (images & labelled) - set(rows["baseimg"].map(base_name)):
            dataset_dicts, _ = load_folder(folder, sorted(table["class"].unique()), only=empty)
            found += [
                (str(path), dataset_dict["image_name"].rpartition("/")[2], dataset_dict["resolution"])
                for dataset_dict in dataset_dicts
            ]
    return found


def folder_keys(folders: Iterable[str]) -> dict[str, str]:
    """Folder -> short name: the last part of its path, numbered where several folders have the same."""
    keys: dict[str, str] = {}
    for folder in dict.fromkeys(folders):
        last = folder.replace("\\", "/").rstrip("/").rpartition("/")[2] or "data"
        key, number = last, 1
        while key in keys.values():
            number += 1
            key = f"{last}-{number}"
        keys[folder] = key
    return keys


def locate_images(
    annotations: pd.DataFrame, empty: Sequence[EmptyImage], keys: Mapping[str, str], bare_names: bool
) -> tuple[pd.DataFrame, pd.Series]:
    """Name the images.

    Args:
        annotations: with ``folder`` and ``baseimg``.
        empty: images without rows.
        keys: folder -> key.
        bare_names: base names, instead of ``<folder key>/<base name>``.

    Returns:
        one row per image, in the order of the annotations, with ``picture`` (its name; equal ones only if bare),
        ``folder``, ``base``, ``key`` and ``res`` (px/mm, NaN = unknown); and the image of every annotation.
    """
    rows = pd.DataFrame({"folder": annotations["folder"], "base": annotations["baseimg"].map(base_name)})
    rows["res"] = pd.to_numeric(annotations["res"], errors="coerce") if "res" in annotations else np.nan
    places = pd.concat([rows, pd.DataFrame(empty, columns=list(rows))], ignore_index=True)
    places["key"] = places["folder"].map(keys)
    places.insert(0, "image", places["base"] if bare_names else places["key"] + "/" + places["base"])
    names = places["image"].iloc[: len(rows)]
    return places.drop_duplicates(["folder", "base"], ignore_index=True), names


def rejected_images(
    places: pd.DataFrame,
    rows: pd.DataFrame,
    counts: pd.DataFrame,
    cls_to_idx: Mapping[str, int],
    *,
    minres: float,
    mininst: int,
    maxinst: int,
    exclude: Sequence[str],
    ratio: float | None,
) -> dict[str, str]:
    """Images that cannot be used, and why.

    Args:
        places: from :func:`locate_images`.
        rows: the annotations, with ``picture``, indexed by CSV row.
        counts: particles, images x classes.
        cls_to_idx: its classes are the known ones.
        minres: lowest resolution, px/mm.
        mininst: fewest particles.
        maxinst: most particles.
        exclude: classes.
        ratio: height / width of the window that a crop keeps, None = no crop.
    """
    particles = counts.sum(axis=1)
    tests = {
        f"resolution below {minres:g} px/mm": places.loc[places["res"] < minres, "image"],
        f"fewer than {mininst} particles": particles.index[particles < mininst],
        f"more than {maxinst} particles": particles.index[particles > maxinst],
    }
    for name in counts.columns:
        if name in exclude or name not in cls_to_idx:
            reason = f"class {name} excluded" if name in exclude else f"class {name} not in the class list"
            tests[reason] = counts.index[counts[name] > 0]
    reasons = _missing_files(places)
    for reason, names in tests.items():
        reasons = dict.fromkeys(names, reason) | reasons
    if ratio is not None:
        left = places[~places["image"].isin(list(reasons))]
        reasons |= dict.fromkeys(_cut_images(left, rows, ratio), "particle outside of the crop")
    return reasons


def is_cut(boxes: np.ndarray, size: tuple[int, int], ratio: float) -> bool:
    """Whether a box touches or leaves the window that the crop to an aspect ratio keeps (reference section 6.5).

    The window is turned as the image is, as the training canvas is, and lies for a square one. Sides where nothing is
    cropped do not count. The odd pixel is cropped on the right and at the bottom.

    Args:
        boxes: (K, 4) XYXY, end exclusive, px.
        size: (H, W) of the image, px.
        ratio: height / width of the window, or width / height.
    """
    height, width = size
    ratio = min(ratio, 1 / ratio) if height <= width else max(ratio, 1 / ratio)
    kept_h = min(round(width * ratio), height)
    kept_w = min(round(kept_h / ratio), width)
    for start, end, length, kept in ((0, 2, width, kept_w), (1, 3, height, kept_h)):
        offset = (length - kept) // 2
        if kept < length and ((boxes[:, start] <= offset) | (boxes[:, end] >= offset + kept)).any():
            return True
    return False


def _missing_files(places: pd.DataFrame) -> dict[str, str]:
    reasons = {}
    for folder, image_files in places.groupby("folder", sort=False):
        if not Path(folder).is_dir():
            raise RamsesError(f"{folder}: no such folder; correct the column folder of the annotations")
        images, labelled = _files(Path(folder))
        for name, base in zip(image_files["image"], image_files["base"], strict=True):
            if base not in images:
                reasons[name] = "image missing"
            elif base not in labelled:
                reasons[name] = "label image missing"
    return reasons


def _files(folder: Path) -> tuple[set[str], set[str]]:
    """Base names of the images and of the label images."""
    found = (folder / "images").iterdir() if (folder / "images").is_dir() else ()
    images = {path.stem for path in found if path.suffix.lower() in IMAGE_SUFFIXES}
    return images, {path.stem for path in (folder / "labels").glob("*.png")}


def _cut_images(places: pd.DataFrame, rows: pd.DataFrame, ratio: float) -> list[str]:
    cut = []
    defaults = {"mass": np.nan, "area": np.nan, "gt_mass": False}
    rows = rows.assign(**{name: value for name, value in defaults.items() if name not in rows})
    for (folder, key), images in places.groupby(["folder", "key"], sort=False):
        names = dict(zip(images["base"], images["image"], strict=True))
        inside = rows[(rows["folder"] == folder) & rows["image"].isin(images["image"])]
        csv_path, classes = Path(folder) / "annotations.csv", sorted(inside["class"].unique())
        with_rows = set(inside["baseimg"].map(base_name))
        for dataset_dict in build_dataset_dicts(Path(folder), inside, csv_path, classes, key=key, only=with_rows):
            boxes = np.array([annotation["bbox"] for annotation in dataset_dict["annotations"]]).reshape(-1, 4)
            if is_cut(boxes, (dataset_dict["height"], dataset_dict["width"]), ratio):
                cut.append(names[dataset_dict["image_name"].removeprefix(f"{key}/")])
    return cut


logger = logging.getLogger(__name__)

AUTO, NONE = "auto", "none"
OURS, ORIGINAL = FORMAT, "ramses2"
_SIDES = ("train", "valid")
_OUR_KEYS = ("format", "version", "folders", "classes", "subsets", "settings")
_SETTINGS = (
    "seed", "minres", "mininst", "maxinst", "exclude", "input_shape", "crop_to_aspect_ratio", "mask_stride", "group_by",
)  # fmt: skip
# The original's key -> argument of the constructor
_ORIGINAL_SETTINGS = {
    name: name
    for name in ("exclude", "mask_stride", "minres", "input_shape", "cls_to_idx", "mininst", "maxinst", "seed")
} | {"crop_to_ar": "crop_to_aspect_ratio"}
_COUNTS = ("train_class_counts", "valid_class_counts")
_ORIGINAL_KEYS = ("dataset_id", "ratio", *_ORIGINAL_SETTINGS, *_COUNTS, *_SIDES)
# What the original's file says where no network size was asked for: the published network's
_INPUT_SHAPE = (2048, 3072)
_NEEDED_COLUMNS = ("label", "baseimg", "class", "folder")


class AnnotatedImages:
    """Images with annotations, from one data set folder or several.

    Attributes:
        annotations: one row per particle, with ``folder`` and ``VALID`` (whether its image may be used).
        images: one row per image, indexed by its name: ``folder``, ``base``, ``key``, ``res`` (px/mm), ``VALID``,
            ``reason`` (why not, "" if it may be used) and ``group`` (a number).
        counts: particles, images x classes.
        classes: all class names in the annotations, sorted.
        cls_to_idx: class name -> id from 1.
        places: like ``pictures``, one row for each folder and base name, with ``picture``: differs for bare names only.
        folders: folder -> its key in names.
    """

    def __init__(
        self,
        annotations: pd.DataFrame,
        input_shape: Sequence[int] | None = None,
        crop_to_aspect_ratio: bool = True,
        mask_stride: int = 4,
        cls_to_idx: Mapping[str, int] | None = None,
        mininst: int = 1,
        maxinst: int = MAX_LABEL,
        exclude: Sequence[str] = (),
        minres: float = 0.0,
        seed: int | None = 0,
        filter_annotations: bool = True,
        *,
        group_by: str | None = None,
        empty: Sequence[EmptyImage] = (),
        keys: Mapping[str, str] | None = None,
        bare_names: bool = False,
    ) -> None:
        """Take annotations.

        Args:
            annotations: rows of one annotations.csv or more, with a column ``folder`` (path of the data set).
            input_shape: (H, W) of the network's input. If given, an image with a particle outside of the window that
                the crop to its aspect ratio keeps is not used.
            crop_to_aspect_ratio: False: images are padded, so nothing is outside.
            mask_stride: kept for the original's split files only.
            cls_to_idx: class name -> id from 1; default: the sorted names without the excluded ones.
            mininst: fewest particles of an image.
            maxinst: most particles of an image.
            exclude: classes whose images are not used.
            minres: lowest resolution of an image, px/mm.
            seed: of the sets that are created; None = a new one each time.
            filter_annotations: False = no checks; ``VALID`` is taken from the annotations.
            group_by: images of a group are never on both sides, see :func:`ramses_d2.data.split_groups.group_keys`.
            empty: images without particles.
            keys: folder -> its key in names; default: the last part of its path.
            bare_names: names are base names, as in the original: equal ones of two folders stay together.
        """
        missing = [name for name in _NEEDED_COLUMNS if name not in annotations]
        if missing:
            raise RamsesError(f"annotations: column {', '.join(missing)} is missing, see datasets/README.md")
        if input_shape is not None and min(input_shape) < 1:
            raise RamsesError(f"input shape {tuple(input_shape)}: give height and width in px")
        self.input_shape = tuple(input_shape) if input_shape is not None else None
        self.crop_to_aspect_ratio, self.mask_stride = crop_to_aspect_ratio, mask_stride
        self.seed = seed
        self._csv_rows = annotations.index
        self.annotations = annotations.reset_index(drop=True).astype({"folder": str})
        self.classes = sorted(self.annotations["class"].unique())
        self.cls_to_idx = dict(cls_to_idx) if cls_to_idx is not None else class_ids(self.classes, exclude)

        self.folders = dict(keys or folder_keys([*self.annotations["folder"], *(folder for folder, _, _ in empty)]))
        self.places, self._names = locate_images(self.annotations, empty, self.folders, bare_names)
        self.images = self.places.drop_duplicates("image").set_index("image").assign(VALID=True, reason="")
        table = pd.crosstab(self._names, self.annotations["class"])
        self.counts = table.reindex(index=self.images.index, columns=self.classes, fill_value=0)
        self.minres, self.mininst, self.maxinst, self.exclude = minres, mininst, maxinst, list(exclude)
        if filter_annotations:
            self.filter_annotations(minres, mininst, maxinst, exclude)
        elif "VALID" in self.annotations:
            is_valid = self.annotations["VALID"].astype(str).str.lower() == "true"
            self._reject(dict.fromkeys(self._names[~is_valid], "VALID is not True"))
        else:
            self._reject({})
        self.group(group_by)

    def filter_annotations(
        self, minres: float = 0.0, mininst: int = 1, maxinst: int = MAX_LABEL, exclude: Sequence[str] = ()
    ) -> None:
        """Find out which images may be used. Both files must exist, and the limits of the constructor hold."""
        self.minres, self.mininst, self.maxinst, self.exclude = minres, mininst, maxinst, list(exclude)
        if minres > 0 and "res" not in self.annotations:
            raise RamsesError("annotations: column res is missing, which the lowest resolution needs")
        cropped = self.input_shape is not None and self.crop_to_aspect_ratio
        self._reject(
            rejected_images(
                self.places,
                self._rows().set_axis(self._csv_rows),
                self.counts,
                self.cls_to_idx,
                minres=minres,
                mininst=mininst,
                maxinst=maxinst,
                exclude=exclude,
                ratio=self.input_shape[0] / self.input_shape[1] if cropped else None,
            )
        )

    def group(self, group_by: str | None) -> None:
        """Find out which images belong together: those of one group are never on both sides.

        Args:
            group_by: see :func:`ramses_d2.data.split_groups.group_keys`; None = each image is on its own.
        """
        self.group_by = group_by
        keys = group_keys(group_by, self.images, self._rows()) if group_by else [None] * len(self.images)
        self.images["group"] = group_numbers(keys)

    def candidates(
        self,
        exclude: Sequence[str] = (),
        dataset_name: tuple[str, Collection[Any]] | None = None,
        constraint: str = "in",
        mass: bool = False,
    ) -> list[str]:
        """Names of the images that may be used, in the order of the annotations.

        Args:
            exclude: classes; images with one of them are left out.
            dataset_name: a column of the annotations and values in it.
            constraint: "in" = images with such a value, "not_in" = images without.
            mass: only images with a particle whose mass is known.
        """
        if self.images.empty:
            raise RamsesError("there are no annotations to choose images from: the split's CSV was not read")
        keep = self.images["VALID"] & ~self.counts.loc[:, self.counts.columns.isin(exclude)].any(axis=1)
        if dataset_name is not None:
            column, values = dataset_name
            if column not in self.annotations or constraint.lower() not in ("in", "not_in"):
                raise RamsesError(f"{column!r} {constraint!r} ...: give a column of the annotations, and in or not_in")
            values = [values] if isinstance(values, str) else list(values)
            keep &= self._have(self.annotations[column].isin(values)) == (constraint.lower() == "in")
        if mass:
            keep &= self._have(self._known_masses())
        return self.images.index[keep].tolist()

    def apart(self, names: Sequence[str], other: Sequence[str]) -> list[str]:
        """The images that share no group with other ones."""
        group = self.images["group"]
        taken = set(group.reindex(list(set(other))).dropna())
        return [name for name in names if group[name] not in taken]

    def draw(
        self,
        names: Sequence[str],
        caps: np.ndarray,
        not_counting: Sequence[str],
        max_reuse: int,
        rng: np.random.Generator | None,
        whole_groups: bool = False,
    ) -> list[str]:
        """:func:`ramses_d2.data.splitting.draw_capped` for images, or for whole groups of them.

        Args:
            names: images to choose from.
            caps: (C,) most particles of each of ``classes``.
            not_counting: classes for whose sake nothing is repeated.
            max_reuse: most uses.
            rng: source of the random order; None = in the order of ``names``.
            whole_groups: choose groups.

        Returns:
            names, with repeats.
        """
        names = list(names) if rng is None else sorted(names)  # a seed's draw does not depend on the order of rows
        unit, units = pd.factorize(self.images.loc[names, "group"] if whole_groups else np.arange(len(names)))
        counts = np.zeros((len(units), len(self.classes)), dtype=np.int64)
        np.add.at(counts, unit, self.counts.loc[names].to_numpy())
        ignored = np.isin(self.classes, list(not_counting))
        drawn = draw_capped(counts, caps, max_reuse=max_reuse, not_counting=ignored, rng=rng)
        members: list[list[str]] = [[] for _ in units]
        for name, index in zip(names, unit, strict=True):
            members[index].append(name)
        return [name for index in drawn for name in members[index]]

    def divide(self, shares: Sequence[float], stratify: bool, mass: bool, rng: np.random.Generator) -> list[list[str]]:
        """Deal all images that may be used out to sides, see :func:`ramses_d2.data.splitting.assign_sides`.

        Args:
            shares: of the images, for each side.
            stratify: give each class its share, too.
            mass: only images with a particle whose mass is known.
            rng: source of the random order.

        Returns:
            sorted names of each side.
        """
        names = sorted(self.candidates(mass=mass))
        if not names:
            reason = self.images["reason"].replace("", "no known mass").mode().iloc[0]
            raise RamsesError(f"none of {len(self.images)} images can be used, most often because of: {reason}")
        groups, _ = pd.factorize(self.images.loc[names, "group"])
        side = assign_sides(self.counts.loc[names].to_numpy(), groups, shares, stratify=stratify, rng=rng)
        return [[name for name, own in zip(names, side, strict=True) if own == index] for index in range(len(shares))]

    def balance(
        self, names: list[str], max_per_class: int | None, max_reuse: int, rng: np.random.Generator
    ) -> list[str]:
        """Training images, capped and repeated, sorted by name; see ``DatasetManager.create_split``."""
        if max_per_class is None and max_reuse <= 1:
            return names
        most = self.counts.loc[names].sum().max() if max_per_class is None else max_per_class
        drawn = self.draw(names, np.full(len(self.classes), most), (), max_reuse, rng)
        if not drawn:
            raise RamsesError(f"{most} particles per class: each of {len(names)} training images has more")
        return sorted(drawn)

    def class_counts(self, names: Iterable[str]) -> dict[str, int]:
        """Particles of every class in images, repeats counted; an image without annotations counts as empty."""
        uses = pd.Series(Counter(names), dtype=float).reindex(self.counts.index, fill_value=0)
        return {name: int(count) for name, count in (uses.to_numpy() @ self.counts).items()}

    def _known_masses(self) -> pd.Series:
        """Which annotations have a mass."""
        if "mass" not in self.annotations:
            return pd.Series(False, self.annotations.index)
        mass = pd.to_numeric(self.annotations["mass"], errors="coerce")
        return (mass > 0) & np.isfinite(mass)

    def _have(self, rows: pd.Series) -> pd.Series:
        """Which images have one of these rows."""
        return pd.Series(self.images.index.isin(self._names[rows].unique()), self.images.index)

    def _rows(self) -> pd.DataFrame:
        return self.annotations.assign(image=self._names)

    def _reject(self, reasons: Mapping[str, str]) -> None:
        self.images["reason"] = [reasons.get(name, "") for name in self.images.index]
        self.images["VALID"] = self.images["reason"] == ""
        self.annotations["VALID"] = self._names.map(self.images["VALID"]).astype(bool)


def class_ids(class_names: Sequence[str], exclude: Sequence[str] = ()) -> dict[str, int]:
    """Class name -> id from 1, without the excluded ones."""
    return {name: index for index, name in enumerate((n for n in class_names if n not in exclude), start=1)}


class DatasetManager(AnnotatedImages):
    """Chooses images for training and validation.

    Against the original: the same seed gives the same sets in any process; images of one base name in two folders are
    kept apart (an image's name is ``<folder key>/<base name>``); images with a class that is not in ``cls_to_idx``
    are not used; without limits nothing is filtered out; ``group_by`` keeps images together; and
    :meth:`create_split` and :meth:`create_folds` divide all images, with the classes in proportion.

    Attributes:
        train_basenames: names of the training images; one that is there twice is used twice.
        valid_basenames: names of the validation images.
        train_class_counts: class -> particles in training, repeats counted; see :meth:`update_info`.
        valid_class_counts: the same for validation.
        other_subsets: further subsets, such as folds: subset -> names.
        other_keys: keys of a split file that mean nothing here; they are written back.
        dataset_id: name of a split in the original's format; None = not saved yet.
        source: the original's split file that was read.
        seed: of the next set that is created.
    """

    def __init__(self, annotations: pd.DataFrame, *args: Any, **settings: Any) -> None:
        """Take annotations; see :class:`AnnotatedPictures` for the arguments."""
        super().__init__(annotations, *args, **settings)
        self.train_basenames: list[str] = []
        self.valid_basenames: list[str] = []
        self.other_subsets: dict[str, list[str]] = {}
        self.other_keys: dict[str, Any] = {}
        self.dataset_id: str | None = None
        self.source: Path | None = None
        self.update_info()

    @classmethod
    def from_folders(cls, folders: Sequence[str | Path], **settings: Any) -> DatasetManager:
        """Take RAMSES folders; with ``mininst=0`` also their images without particles.

        Args:
            folders: RAMSES folders; a ``classes.json`` in them fixes the class order.
            **settings: arguments of :class:`AnnotatedPictures`.
        """
        table = read_folders(folders)
        settings.setdefault("cls_to_idx", class_ids(common_class_names(folders, table), settings.get("exclude", ())))
        empty = find_empty_images(table, folders) if settings.get("mininst", 1) == 0 else ()
        return cls(table, empty=empty, **settings)

    @classmethod
    def from_file(cls, *paths: str | Path) -> DatasetManager:
        """Read a split file and the annotations it is about.

        Args:
            *paths: our split.json or the original's NAME.json; the CSV of the latter is NAME.csv or a second path.
                Without a CSV, the sets can be read and saved, but none can be created.
        """
        return read_manager(cls, *paths)

    def save(
        self,
        path: str | Path,
        dataset_id: str | None = None,
        *,
        format: str = OURS,
        force: bool = False,
    ) -> Path:
        """Write the sets to a split file.

        Args:
            path: JSON file; its extension may be left out.
            dataset_id: name of the split in the original's format; default: the one that was read, else the time.
            format: "ramses-split" (split.json), or "ramses2" (the original's JSON and CSV). Edits of ``annotations``,
                such as merged classes, are in the CSV only.
            force: replace an existing split file.

        Returns:
            the JSON file.
        """
        return save_manager(self, Path(path), dataset_id, format, force)

    def create_set(
        self,
        n: int = 100,
        subset: str = "valid",
        exclude: Sequence[str] = (),
        not_counting: Sequence[str] = (),
        max_reuse: int = 3,
        seed: int | None = None,
        append: bool = False,
        dataset_name: tuple[str, Collection[Any]] | None = None,
        constraint: str = "in",
        mass: bool = False,
        shuffle: bool = True,
    ) -> None:
        """Fill one set with up to ``n`` particles of every class, from images that the other set does not use.

        Validation takes whole groups, training takes images of the groups that validation does not touch.

        Args:
            n: most particles of a class that this call takes, repeats counted.
            subset: "train" or "valid".
            exclude: classes; images with one of them are left out.
            not_counting: classes for whose sake no image is repeated; ``n`` holds for them, too.
            max_reuse: most uses of an image; 0 means 1.
            seed: a new ``self.seed``.
            append: add to the set, from images that are not in it, instead of replacing it.
            dataset_name: a column of the annotations and values in it, see :meth:`candidates`.
            constraint: "in" or "not_in".
            mass: only images with a particle whose mass is known.
            shuffle: False = take images in the order of the annotations.
        """
        if subset not in ("train", "valid"):
            raise RamsesError(f"subset {subset!r}: it is 'train' or 'valid'")
        rng = self._generator(seed) if shuffle else None
        valid = subset == "valid"
        own, other = (self.valid_basenames, self.train_basenames)[:: 1 if valid else -1]
        names = self.apart(self.candidates(exclude, dataset_name, constraint, mass), other)
        if append:
            names = [name for name in names if name not in set(own)]
        drawn = self.draw(names, np.full(len(self.classes), n), not_counting, max_reuse, rng, whole_groups=valid)
        self._store(subset, drawn, append, rng)

    def create_sets(
        self,
        ntrain: int = 100,
        nval: int = 0,
        exclude: Sequence[str] = (),
        not_counting: Sequence[str] = (),
        max_reuse: int = 3,
        seed: int | None = None,
        append: bool = False,
        dataset_name: tuple[str, Collection[Any]] | None = None,
        constraint: str = "in",
        mass: bool = False,
        shuffle: bool = True,
    ) -> None:
        """Fill both sets, validation first: up to ``nval`` particles of a class, at most a fifth of all, no repeats.

        Args:
            ntrain: most particles of a class in training, repeats counted.
            nval: most particles of a class in validation.
            max_reuse: most uses of an image in training.
            append: add to both sets, from images that are in neither.
            exclude, not_counting, seed, dataset_name, constraint, mass, shuffle: see :meth:`create_set`.
        """
        rng = self._generator(seed) if shuffle else None
        old_train, old_valid = (self.train_basenames, self.valid_basenames) if append else ([], [])
        used = {*old_train, *old_valid}
        names = [name for name in self.candidates(exclude, dataset_name, constraint, mass) if name not in used]
        caps = np.minimum(nval, self.counts.loc[names].sum().to_numpy() // 5)
        valid = self.draw(self.apart(names, old_train), caps, not_counting, 1, rng, whole_groups=True)
        rest = self.apart(names, [*old_valid, *valid])
        train = self.draw(rest, np.full(len(self.classes), ntrain), not_counting, max_reuse, rng)
        self._store("valid", valid, append, rng)
        self._store("train", train, append, rng)

    def filter_set(self, ds_id: str | None = None, hasmass: bool = True, method: str = "notin") -> None:
        """Keep only images that may be used and have a particle that suits.

        Args:
            ds_id: value of the annotations' column ``id``.
            hasmass: the particle has a known mass.
            method: "notin" = its ``id`` is another one than ``ds_id``; anything else = it is ``ds_id``.
        """
        names = set(self.candidates())
        rows = self._known_masses() if hasmass else pd.Series(True, self.annotations.index)
        if ds_id is not None:
            if "id" not in self.annotations:
                raise RamsesError("annotations: column id is missing, which holds the data set of each picture")
            rows &= (self.annotations["id"] == ds_id) != (method == "notin")
        names &= set(self._names[rows])
        self.train_basenames = [name for name in self.train_basenames if name in names]
        self.valid_basenames = [name for name in self.valid_basenames if name in names]
        self.other_subsets = {
            subset: [name for name in listed if name in names] for subset, listed in self.other_subsets.items()
        }
        self.dataset_id = None
        self.update_info()

    def create_split(
        self,
        valid: float = 0.2,
        *,
        stratify: bool = True,
        max_per_class: int | None = None,
        max_reuse: int = 1,
        mass: bool = False,
        seed: int | None = None,
    ) -> None:
        """Divide all images that may be used into a training and a validation set, group by group.

        Args:
            valid: share of the images for validation, between 0 and 1.
            stratify: also give each class its share.
            max_per_class: most particles of a class in training, repeats counted; images beyond it are not used.
            max_reuse: most uses of an image in training, for the sake of rare classes; without ``max_per_class``, none
                gets more particles than the commonest class has.
            mass: only images with a particle whose mass is known.
            seed: a new ``self.seed``.
        """
        if not 0 < valid < 1:
            raise RamsesError(f"share of the validation set is {valid:g}; it is between 0 and 1, such as 0.2")
        rng = self._generator(seed)
        sides = self.divide([1 - valid, valid], stratify, mass, rng)
        self.train_basenames = self.balance(sides[0], max_per_class, max_reuse, rng)
        self.valid_basenames = sides[1]
        self.other_subsets, self.dataset_id = {}, None
        self.update_info()

    def create_folds(
        self,
        folds: int = 5,
        *,
        stratify: bool = True,
        max_per_class: int | None = None,
        max_reuse: int = 1,
        mass: bool = False,
        seed: int | None = None,
    ) -> None:
        """Divide all images into folds: each validates once what the others train.

        The subsets are ``fold0-train``, ``fold0-valid``, ``fold1-train`` ... in ``other_subsets``.

        Args:
            folds: number of folds, 2 or more.
            stratify, max_per_class, max_reuse, mass, seed: see :meth:`create_split`.
        """
        if folds < 2:
            raise RamsesError(f"{folds} folds: give 2 or more")
        rng = self._generator(seed)
        sides = self.divide([1 / folds] * folds, stratify, mass, rng)
        self.train_basenames, self.valid_basenames = [], []
        self.other_subsets, self.dataset_id = {}, None
        for index, valid in enumerate(sides):
            train = sorted(name for side in sides if side is not valid for name in side)
            self.other_subsets[f"fold{index}-train"] = self.balance(train, max_per_class, max_reuse, rng)
            self.other_subsets[f"fold{index}-valid"] = valid
        self.update_info()

    def update_info(self) -> None:
        """Count the particles of both sets anew; needed only after the lists were changed by hand."""
        self.train_class_counts = self.class_counts(self.train_basenames)
        self.valid_class_counts = self.class_counts(self.valid_basenames)

    @property
    def subsets(self) -> dict[str, list[str]]:
        """All subsets by name; train and valid are left out where there are only others, such as folds."""
        own = {"train": self.train_basenames, "valid": self.valid_basenames}
        return (own if any(own.values()) or not self.other_subsets else {}) | self.other_subsets

    def report(self) -> pd.DataFrame:
        """Particles of every class (rows, in class order) in every subset (columns), repeats counted."""
        columns = {}
        for subset, names in self.subsets.items():
            stored = {"train": self.train_class_counts, "valid": self.valid_class_counts}.get(subset)
            columns[subset] = pd.Series(self.class_counts(names) if stored is None else stored, dtype=float)
        return pd.DataFrame(columns).reindex(list(self.cls_to_idx)).fillna(0).astype(int)

    def missing_classes(self, subset: str = "valid") -> list[str]:
        """Classes of which a subset has no particle."""
        counts = self.report()[subset]
        return counts.index[counts == 0].tolist()

    def _generator(self, seed: int | None) -> np.random.Generator:
        """A fresh generator from the seed at the time of the call, so that earlier calls have no influence."""
        if seed is not None:
            self.seed = seed
        if self.seed is None:
            self.seed = int(np.random.default_rng().integers(2**31))
        if self.seed < 0:
            raise RamsesError(f"seed {self.seed}: give 0 or more")
        return np.random.default_rng(self.seed)

    def _store(self, subset: str, drawn: list[str], append: bool, rng: np.random.Generator | None) -> None:
        names = [*getattr(self, f"{subset}_basenames"), *drawn] if append else drawn
        if rng is not None:
            rng.shuffle(names)
        setattr(self, f"{subset}_basenames", names)
        self.dataset_id = None
        self.update_info()


if TYPE_CHECKING:
    pass


def read_manager(cls: type[DatasetManager], *paths: str | Path) -> DatasetManager:
    """See ``DatasetManager.from_file``."""
    tables = [Path(path) for path in paths if Path(path).suffix.lower() == ".csv"]
    files = [Path(path) for path in paths if Path(path) not in tables]
    if len(files) != 1 or len(tables) > 1:
        raise RamsesError(f"{', '.join(map(str, paths)) or '(none)'}: give a split's JSON, and if need be one CSV")
    split = read_split(files[0])
    lists = {name: split[name] for name in _SIDES if name in split} if is_original(split) else split["subsets"]
    read = _read_original if is_original(split) else _read_ours
    manager = read(cls, files[0], split, tables[0] if tables else None)
    manager.train_basenames, manager.valid_basenames = (list(lists.get(name, [])) for name in _SIDES)
    manager.other_subsets = {name: list(listed) for name, listed in lists.items() if name not in _SIDES}
    manager.update_info()
    if is_original(split):  # what the file says: the original counts only weighed particles in some sets
        for name in _COUNTS:
            setattr(manager, name, dict(split.get(name, getattr(manager, name))))
    return manager


def save_manager(manager: DatasetManager, path: Path, dataset_id: str | None, format: str, force: bool) -> Path:
    """See ``DatasetManager.save``."""
    if path.suffix.lower() != ".json":
        path = path.with_name(f"{path.name}.json")
    if format == OURS:
        settings = manager.other_keys.get("settings", {}) | {name: getattr(manager, name) for name in _SETTINGS}
        names = _with_keys(manager)
        return write_split(
            path,
            _folder_paths(manager, {name.partition("/")[0] for listed in names.values() for name in listed}),
            sorted(manager.cls_to_idx, key=manager.cls_to_idx.get),
            names,
            manager.other_keys | {"settings": settings},
            force=force,
        )
    if format != ORIGINAL:
        raise RamsesError(f"split format {format!r}: it is {OURS!r} or {ORIGINAL!r}")
    dataset_id = dataset_id or manager.dataset_id or datetime.now().strftime("%Y%m%d-%H%M%S")
    table = None if manager.annotations.empty else _whole_numbers(manager.annotations)
    path = write_original_split(path, _original_content(manager, dataset_id), table, force=force)
    manager.dataset_id = dataset_id
    return path


def _read_ours(
    cls: type[DatasetManager], path: Path, split: Mapping[str, Any], csv_path: Path | None
) -> DatasetManager:
    if csv_path is not None:
        raise RamsesError(f"{csv_path}: {path} needs no CSV, it names the data set folders")
    folders = {str((path.parent / folder).resolve()): key for key, folder in split["folders"].items()}
    if len(folders) < len(split["folders"]):
        raise RamsesError(f"{path}: two keys of folders are the same folder, so an image has two names")
    stored = split.get("settings", {})
    if not isinstance(stored, dict):
        raise RamsesError(f"{path}: key 'settings' is of a wrong type; remove it, or see datasets/README.md")
    settings = {"mininst": 0} | {name: stored[name] for name in _SETTINGS if name in stored}
    table = read_folders(list(folders))
    empty = find_empty_images(table, list(folders)) if settings["mininst"] == 0 else ()
    ids = {name: index for index, name in enumerate(split["classes"], start=1)}
    manager = cls(table, cls_to_idx=ids, empty=empty, keys=folders, **settings)
    manager.other_keys = {key: value for key, value in split.items() if key not in _OUR_KEYS} | {"settings": stored}
    return manager


def _read_original(
    cls: type[DatasetManager], path: Path, split: Mapping[str, Any], csv_path: Path | None
) -> DatasetManager:
    if csv_path is not None or path.with_suffix(".csv").is_file():
        table = read_annotations(csv_path or path.with_suffix(".csv"))
    else:
        table = pd.DataFrame(columns=["label", "baseimg", "class", "folder"], dtype=str)
    settings = {argument: split[key] for key, argument in _ORIGINAL_SETTINGS.items() if key in split}
    manager = cls(table, filter_annotations=False, bare_names=True, **settings)
    manager.dataset_id = split.get("dataset_id")
    manager.other_keys = {key: value for key, value in split.items() if key not in _ORIGINAL_KEYS}
    manager.source = path
    return manager


def _original_content(manager: DatasetManager, dataset_id: str) -> dict[str, Any]:
    if manager.other_subsets:
        raise RamsesError(f"the {ORIGINAL} format has train and valid only, no folds; save the {OURS} format")
    shape = manager.input_shape or _INPUT_SHAPE
    content = {
        "dataset_id": dataset_id,
        "exclude": manager.exclude,
        "ratio": shape[0] / shape[1],
        "crop_to_ar": manager.crop_to_aspect_ratio and manager.input_shape is not None,
        "mask_stride": manager.mask_stride,
        "minres": manager.minres,
        "input_shape": list(shape),
        "cls_to_idx": manager.cls_to_idx,
        "mininst": manager.mininst,
        "maxinst": manager.maxinst,
        "seed": manager.seed,
        "train_class_counts": manager.train_class_counts,
        "valid_class_counts": manager.valid_class_counts,
        "train": _without_keys(manager, manager.train_basenames),
        "valid": _without_keys(manager, manager.valid_basenames),
    }
    return content | {key: value for key, value in manager.other_keys.items() if key != "settings"}


def _without_keys(manager: DatasetManager, names: Sequence[str]) -> list[str]:
    """Base names, which must tell the images apart and have rows in the CSV."""
    bases = manager.images["base"]
    shared = set(bases[bases.duplicated(keep=False)])
    empty = set(manager.counts.index[~manager.counts.any(axis=1)])
    for name in names:
        if name in empty:
            raise RamsesError(f"image {name} has no particles: the {ORIGINAL} format cannot hold it; use mininst=1")
        if bases.get(name) in shared:
            raise RamsesError(
                f"image {name}: another folder has one of the same base name, and the {ORIGINAL} format cannot "
                f"tell them apart; rename one, or save the {OURS} format"
            )
    return [bases.get(name, name) for name in names]


def _with_keys(manager: DatasetManager) -> dict[str, list[str]]:
    """All subsets with names ``<folder key>/<base name>``."""
    by_name: dict[str, list[str]] = {}
    for place in manager.places.itertuples():
        by_name.setdefault(place.image, []).append(f"{place.key}/{place.base}")
    subsets = {}
    for subset, names in manager.subsets.items():
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise RamsesError(
                f"{len(unknown)} images of subset {subset} are in no known folder, the first is {unknown[0]}; "
                f"read the split with its CSV"
            )
        subsets[subset] = [name for bare in names for name in by_name[bare]]
    return subsets


def _folder_paths(manager: DatasetManager, used: set[str]) -> dict[str, Path]:
    """Key -> folder; one that is not here is looked for beside the split file that was read, if it is used."""
    paths = {}
    for folder, key in manager.folders.items():
        if Path(folder).is_dir():
            paths[key] = Path(folder)
        elif key in used and manager.source is not None:
            paths[key] = find_folder(folder, manager.source, manager.source.with_suffix(".csv"))
        elif key in used:
            raise RamsesError(f"{folder}: no such folder; correct the column folder of the annotations")
    return paths


def _whole_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The table with whole numbers written as such, although a column with unknown values is float."""
    numbers = {
        name: table[name].astype("Int64")
        for name in table.select_dtypes("float")
        if name not in ("res", "mass") and (table[name].dropna() % 1 == 0).all()
    }
    return table.assign(**numbers)


def split_folders(
    folders: Sequence[str | Path],
    output: str | Path,
    *,
    valid: float = 0.2,
    folds: int | None = None,
    stratify: bool = True,
    group_by: str = AUTO,
    max_per_class: int | None = None,
    max_reuse: int = 1,
    minres: float = 0.0,
    mininst: int | None = None,
    maxinst: int = MAX_LABEL,
    exclude: Sequence[str] = (),
    mass: bool = False,
    input_shape: Sequence[int] | None = None,
    seed: int = 0,
    format: str = OURS,
    force: bool = False,
) -> tuple[DatasetManager, Path]:
    """Divide the images of RAMSES folders into training and validation sets, and write the split file.

    Args:
        folders: RAMSES folders.
        output: JSON file to write.
        valid: share of the images for validation.
        folds: make so many folds instead.
        stratify: give each class its share, too.
        group_by: see :func:`ramses_d2.data.split_groups.group_keys`; "none" = each image on its own; "auto" = by
            batch where metadata.json has batches of several images, and enough of them.
        max_per_class: see :meth:`DatasetManager.create_split`.
        max_reuse: see there.
        minres: lowest resolution, px/mm.
        mininst: fewest particles of an image; default: 0, in the original's format 1.
        maxinst: most particles of an image.
        exclude: classes whose images are not used.
        mass: only images with a particle whose mass is known.
        input_shape: (H, W); images with a particle outside of the crop to this aspect ratio are not used.
        seed: same seed, same split.
        format: "ramses-split" or "ramses2".
        force: replace an existing split file.

    Returns:
        the manager that holds the sets, and the file.
    """
    if mininst is None:
        mininst = 0 if format == OURS else 1
    manager = DatasetManager.from_folders(
        folders, input_shape=input_shape, mininst=mininst, maxinst=maxinst, exclude=exclude, minres=minres, seed=seed
    )
    if unknown := set(exclude) - set(manager.classes):
        raise RamsesError(
            f"excluded class {', '.join(sorted(unknown))} is not in the annotations ({', '.join(manager.classes)})"
        )
    if group_by == AUTO:
        _group_by_batch(manager, mass, 2 if folds is None else folds)
    elif group_by != NONE:
        manager.group(group_by)
    choice = {"stratify": stratify, "max_per_class": max_per_class, "max_reuse": max_reuse, "mass": mass}
    if folds is None:
        manager.create_split(valid, **choice)
    else:
        manager.create_folds(folds, **choice)
    return manager, manager.save(output, format=format, force=force)


def _group_by_batch(manager: DatasetManager, mass: bool, sides: int) -> None:
    if not has_batches(manager.images):
        return
    manager.group(BATCH)
    if 0 < manager.images.loc[manager.candidates(mass=mass), "group"].nunique() < sides:
        logger.warning("fewer than %d batches: images of one batch will be on both sides", sides)
        manager.group(None)
