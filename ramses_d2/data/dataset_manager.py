"""Choose images for training and validation from annotated folders: filters, groups, caps, folds, split files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ramses_d2.data.folder import MAX_LABEL, build_dataset_dicts, folder_class_names, load_folder, read_annotations
from ramses_d2.data.splits import (
    BATCH,
    SIDES,
    assign_sides,
    draw_capped,
    find_folder,
    group_keys,
    group_numbers,
    has_batches,
    is_original,
    read_split,
    split_subsets,
    write_split,
)
from ramses_d2.errors import RamsesError
from ramses_d2.files import IMAGE_SUFFIXES, base_name

logger = logging.getLogger(__name__)

EmptyImage = tuple[str, str, float]  # folder, base name, resolution in px/mm

AUTO, NONE = "auto", "none"
_NEEDED_COLUMNS = ("label", "baseimg", "class", "folder")
_OUR_KEYS = ("format", "version", "folders", "classes", "subsets", "settings")
_SETTINGS = (
    "seed", "minres", "mininst", "maxinst", "exclude", "input_shape", "crop_to_aspect_ratio", "mask_stride", "group_by",
)  # fmt: skip
# RAMSES2's key -> argument of the constructor
_ORIGINAL_SETTINGS = {
    name: name
    for name in ("exclude", "mask_stride", "minres", "input_shape", "cls_to_idx", "mininst", "maxinst", "seed")
} | {"crop_to_ar": "crop_to_aspect_ratio"}
_COUNTS = ("train_class_counts", "valid_class_counts")
_ORIGINAL_KEYS = ("dataset_id", "ratio", *_ORIGINAL_SETTINGS, *_COUNTS, *SIDES)


class DatasetManager:
    """Chooses images for training and validation.

    Unlike RAMSES2's: the same seed gives the same sets in any process; images of one base name in two folders are kept
    apart (an image's name is ``<folder key>/<base name>``); images with a class that is not in ``cls_to_idx`` are not
    used; without limits nothing is filtered out; ``group_by`` keeps images together; and :meth:`create_split` and
    :meth:`create_folds` divide all images, with the classes in proportion.

    Attributes:
        annotations: one row per particle, with ``folder`` and ``VALID`` (whether its image may be used).
        images: one row per image, indexed by its name: ``folder``, ``base``, ``key``, ``res`` (px/mm), ``VALID``,
            ``reason`` (why not, "" if it may be used) and ``group`` (a number).
        counts: particles, images x classes.
        classes: all class names in the annotations, sorted.
        cls_to_idx: class name -> id from 1.
        places: like ``images``, one row for each folder and base name, with ``image``; differs for bare names only.
        folders: folder -> its key in names.
        train_basenames, valid_basenames: names of the images of each side; one that is there twice is used twice.
        train_class_counts, valid_class_counts: class -> particles, repeats counted; see :meth:`update_info`.
        other_subsets: further subsets, such as folds: subset -> names.
        other_keys: keys of a split file that mean nothing here; they are written back.
        dataset_id, source: name and file of the RAMSES2 split that was read.
        seed: of the next set that is created.
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
            mask_stride: of RAMSES2's split files; kept.
            cls_to_idx: class name -> id from 1; default: the sorted names without the excluded ones.
            mininst, maxinst: fewest and most particles of an image.
            exclude: classes whose images are not used.
            minres: lowest resolution of an image, px/mm.
            seed: of the sets that are created; None = a new one each time.
            filter_annotations: False = no checks; ``VALID`` is taken from the annotations.
            group_by: images of a group are never on both sides, see :func:`ramses_d2.data.splits.group_keys`.
            empty: images without particles.
            keys: folder -> its key in names; default: the last part of its path.
            bare_names: names are base names, as in RAMSES2: equal ones of two folders stay together.
        """
        missing = [name for name in _NEEDED_COLUMNS if name not in annotations]
        if missing:
            raise RamsesError(f"annotations: column {', '.join(missing)} is missing, see datasets/README.md")
        if input_shape is not None and min(input_shape) < 1:
            raise RamsesError(f"input shape {tuple(input_shape)}: give height and width in px")
        self.input_shape = tuple(input_shape) if input_shape is not None else None
        self.crop_to_aspect_ratio, self.mask_stride, self.seed = crop_to_aspect_ratio, mask_stride, seed
        self._csv_rows = annotations.index
        self.annotations = annotations.reset_index(drop=True).astype({"folder": str})
        self.classes = sorted(self.annotations["class"].unique())
        self.cls_to_idx = dict(cls_to_idx) if cls_to_idx is not None else _class_ids(self.classes, exclude)

        self.folders = dict(keys or _folder_keys([*self.annotations["folder"], *(folder for folder, _, _ in empty)]))
        rows = pd.DataFrame({"folder": self.annotations["folder"], "base": self.annotations["baseimg"].map(base_name)})
        has_resolution = "res" in self.annotations
        rows["res"] = pd.to_numeric(self.annotations["res"], errors="coerce") if has_resolution else np.nan
        places = pd.concat([rows, pd.DataFrame(empty, columns=list(rows))], ignore_index=True)
        places["key"] = places["folder"].map(self.folders)
        places.insert(0, "image", places["base"] if bare_names else places["key"] + "/" + places["base"])
        self._names = places["image"].iloc[: len(rows)]  # of the image of every annotation
        self.places = places.drop_duplicates(["folder", "base"], ignore_index=True)
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

        self.train_basenames: list[str] = []
        self.valid_basenames: list[str] = []
        self.other_subsets: dict[str, list[str]] = {}
        self.other_keys: dict[str, Any] = {}
        self.dataset_id: str | None = None
        self.source: Path | None = None
        self.update_info()

    # ---- from and to files

    @classmethod
    def from_folders(cls, folders: Sequence[str | Path], **settings: Any) -> DatasetManager:
        """Take RAMSES folders; with ``mininst=0`` also their images without particles. ``settings``: of ``__init__``.

        The class order is that of their classes.json, which must be the same in each, else the sorted names.
        """
        table = _read_folders(folders)
        paths = [path for path in (Path(folder) / "classes.json" for folder in folders) if path.is_file()]
        orders = [folder_class_names(path.parent) for path in paths]
        class_names = orders[0] if orders else sorted(table["class"].unique())
        for path, order in zip(paths, orders, strict=True):
            if order != class_names:
                raise RamsesError(f"{path} differs from {paths[0]}; the folders of a split have one class order")
        settings.setdefault("cls_to_idx", _class_ids(class_names, settings.get("exclude", ())))
        empty = _find_empty_images(table, folders) if settings.get("mininst", 1) == 0 else ()
        return cls(table, empty=empty, **settings)

    @classmethod
    def from_file(cls, *paths: str | Path) -> DatasetManager:
        """Read a split file and the annotations it is about.

        The JSON is our split.json or RAMSES2's NAME.json; the CSV of the latter is NAME.csv or a second path. Without a
        CSV, the sets can be read, but none can be created.
        """
        tables = [Path(path) for path in paths if Path(path).suffix.lower() == ".csv"]
        files = [Path(path) for path in paths if Path(path) not in tables]
        if len(files) != 1 or len(tables) > 1:
            raise RamsesError(f"{', '.join(map(str, paths)) or '(none)'}: give a split's JSON, and if need be one CSV")
        split = read_split(files[0])
        read = cls._read_original if is_original(split) else cls._read_ours
        manager = read(files[0], split, tables[0] if tables else None)
        lists = split_subsets(split)
        manager.train_basenames, manager.valid_basenames = (list(lists.get(name, [])) for name in SIDES)
        manager.other_subsets = {name: list(listed) for name, listed in lists.items() if name not in SIDES}
        manager.update_info()
        if is_original(split):  # what the file says: RAMSES2 counts only weighed particles in some sets
            for name in _COUNTS:
                setattr(manager, name, dict(split.get(name, getattr(manager, name))))
        return manager

    @classmethod
    def _read_ours(cls, path: Path, split: Mapping[str, Any], csv_path: Path | None) -> DatasetManager:
        if csv_path is not None:
            raise RamsesError(f"{csv_path}: {path} needs no CSV, it names the data set folders")
        folders = {str((path.parent / folder).resolve()): key for key, folder in split["folders"].items()}
        if len(folders) < len(split["folders"]):
            raise RamsesError(f"{path}: two keys of folders are the same folder, so an image has two names")
        stored = split.get("settings", {})
        if not isinstance(stored, dict):
            raise RamsesError(f"{path}: key 'settings' is of a wrong type; remove it, or see datasets/README.md")
        settings = {"mininst": 0} | {name: stored[name] for name in _SETTINGS if name in stored}
        table = _read_folders(list(folders))
        empty = _find_empty_images(table, list(folders)) if settings["mininst"] == 0 else ()
        manager = cls(table, cls_to_idx=_class_ids(split["classes"]), empty=empty, keys=folders, **settings)
        others = {key: value for key, value in split.items() if key not in _OUR_KEYS}
        manager.other_keys = others | {"settings": stored}
        return manager

    @classmethod
    def _read_original(cls, path: Path, split: Mapping[str, Any], csv_path: Path | None) -> DatasetManager:
        if csv_path is not None or path.with_suffix(".csv").is_file():
            table = read_annotations(csv_path or path.with_suffix(".csv"))
        else:
            table = pd.DataFrame(columns=list(_NEEDED_COLUMNS), dtype=str)
        settings = {argument: split[key] for key, argument in _ORIGINAL_SETTINGS.items() if key in split}
        manager = cls(table, filter_annotations=False, bare_names=True, **settings)
        manager.dataset_id, manager.source = split.get("dataset_id"), path
        manager.other_keys = {key: value for key, value in split.items() if key not in _ORIGINAL_KEYS}
        return manager

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the sets to a split.json, whose extension may be left out of ``path``."""
        path = Path(path)
        if path.suffix.lower() != ".json":
            path = path.with_name(f"{path.name}.json")
        settings = self.other_keys.get("settings", {}) | {name: getattr(self, name) for name in _SETTINGS}
        by_name: dict[str, list[str]] = {}
        for place in self.places.itertuples():
            by_name.setdefault(place.image, []).append(f"{place.key}/{place.base}")
        subsets: dict[str, list[str]] = {}
        for subset, names in self.subsets.items():
            unknown = [name for name in names if name not in by_name]
            if unknown:
                raise RamsesError(
                    f"{len(unknown)} images of subset {subset} are in no known folder, the first is {unknown[0]}; "
                    f"read the split with its CSV"
                )
            subsets[subset] = [name for listed in names for name in by_name[listed]]
        used = {name.partition("/")[0] for names in subsets.values() for name in names}
        class_names = sorted(self.cls_to_idx, key=self.cls_to_idx.get)
        others = self.other_keys | {"settings": settings}
        return write_split(path, self._folder_paths(used), class_names, subsets, others, force=force)

    def _folder_paths(self, used: Collection[str]) -> dict[str, Path]:
        """Key -> folder; one that is not here is looked for beside the split file that was read, if it is used."""
        paths = {}
        for folder, key in self.folders.items():
            if Path(folder).is_dir():
                paths[key] = Path(folder)
            elif key in used and self.source is not None:
                paths[key] = find_folder(folder, self.source, self.source.with_suffix(".csv"))
            elif key in used:
                raise RamsesError(f"{folder}: no such folder; correct the column folder of the annotations")
        return paths

    # ---- which images may be used

    def filter_annotations(
        self, minres: float = 0.0, mininst: int = 1, maxinst: int = MAX_LABEL, exclude: Sequence[str] = ()
    ) -> None:
        """Find out which images may be used. Both files must exist, and the limits of the constructor hold."""
        self.minres, self.mininst, self.maxinst, self.exclude = minres, mininst, maxinst, list(exclude)
        if minres > 0 and "res" not in self.annotations:
            raise RamsesError("annotations: column res is missing, which the lowest resolution needs")
        particles = self.counts.sum(axis=1)
        tests: dict[str, Iterable[str]] = {
            f"resolution below {minres:g} px/mm": self.places.loc[self.places["res"] < minres, "image"],
            f"fewer than {mininst} particles": particles.index[particles < mininst],
            f"more than {maxinst} particles": particles.index[particles > maxinst],
        }
        for name in self.counts.columns:
            if name in exclude or name not in self.cls_to_idx:
                reason = f"class {name} excluded" if name in exclude else f"class {name} not in the class list"
                tests[reason] = self.counts.index[self.counts[name] > 0]
        reasons = self._missing_files()
        for reason, names in tests.items():
            reasons = dict.fromkeys(names, reason) | reasons
        if self.input_shape is not None and self.crop_to_aspect_ratio:
            left = self.places[~self.places["image"].isin(list(reasons))]
            reasons |= dict.fromkeys(self._cut_images(left), "particle outside of the crop")
        self._reject(reasons)

    def _missing_files(self) -> dict[str, str]:
        reasons = {}
        for folder, places in self.places.groupby("folder", sort=False):
            if not Path(folder).is_dir():
                raise RamsesError(f"{folder}: no such folder; correct the column folder of the annotations")
            images, labelled = _base_names(Path(folder))
            for name, base in zip(places["image"], places["base"], strict=True):
                if base not in images:
                    reasons[name] = "image missing"
                elif base not in labelled:
                    reasons[name] = "label image missing"
        return reasons

    def _cut_images(self, places: pd.DataFrame) -> list[str]:
        """Images with a particle outside of the window that a crop keeps."""
        ratio = self.input_shape[0] / self.input_shape[1]
        defaults = {"mass": np.nan, "area": np.nan, "gt_mass": False}
        rows = self._rows().set_axis(self._csv_rows)
        rows = rows.assign(**{name: value for name, value in defaults.items() if name not in rows})
        cut = []
        for (folder, key), images in places.groupby(["folder", "key"], sort=False):
            names = dict(zip(images["base"], images["image"], strict=True))
            inside = rows[(rows["folder"] == folder) & rows["image"].isin(images["image"])]
            csv_path, classes = Path(folder) / "annotations.csv", sorted(inside["class"].unique())
            annotated = set(inside["baseimg"].map(base_name))
            for dataset_dict in build_dataset_dicts(Path(folder), inside, csv_path, classes, key=key, only=annotated):
                boxes = np.array([annotation["bbox"] for annotation in dataset_dict["annotations"]]).reshape(-1, 4)
                if is_cut(boxes, (dataset_dict["height"], dataset_dict["width"]), ratio):
                    cut.append(names[dataset_dict["image_name"].removeprefix(f"{key}/")])
        return cut

    def _reject(self, reasons: Mapping[str, str]) -> None:
        self.images["reason"] = [reasons.get(name, "") for name in self.images.index]
        self.images["VALID"] = self.images["reason"] == ""
        self.annotations["VALID"] = self._names.map(self.images["VALID"]).astype(bool)

    def _rows(self) -> pd.DataFrame:
        return self.annotations.assign(image=self._names)

    def group(self, group_by: str | None) -> None:
        """Find out which images belong together (see :func:`ramses_d2.data.splits.group_keys`); None = none do."""
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

        Images with a class of ``exclude`` are left out. ``dataset_name`` is a column of the annotations and values in
        it; with the constraint "in" an image needs such a value, with "not_in" it must not have one. ``mass``: only
        images with a particle whose mass is known.
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

    def _known_masses(self) -> pd.Series:
        if "mass" not in self.annotations:
            return pd.Series(False, self.annotations.index)
        mass = pd.to_numeric(self.annotations["mass"], errors="coerce")
        return (mass > 0) & np.isfinite(mass)

    def _have(self, rows: pd.Series) -> pd.Series:
        """Which images have one of these rows."""
        return pd.Series(self.images.index.isin(self._names[rows].unique()), self.images.index)

    # ---- sets

    def create_set(
        self,
        n: int = 100,
        subset: str = "valid",
        exclude: Sequence[str] = (),
        not_counting: Sequence[str] = (),
        max_reuse: int = 3,
        seed: int | None = None,
        append: bool = False,
        *,
        shuffle: bool = True,
        **choice: Any,
    ) -> None:
        """Fill one set with up to ``n`` particles of every class, repeats counted, from images the other does not use.

        Validation takes whole groups, training takes images of the groups that validation does not touch. ``exclude``
        and ``choice`` (dataset_name, constraint, mass) are those of :meth:`candidates`. For the classes of
        ``not_counting`` no image is repeated, but ``n`` holds. ``append`` adds images that are not in the set yet;
        without ``shuffle`` they are taken in the order of the annotations. ``seed`` is a new ``self.seed``.
        """
        if subset not in SIDES:
            raise RamsesError(f"subset {subset!r}: it is 'train' or 'valid'")
        rng = self._generator(seed) if shuffle else None
        is_valid = subset == "valid"
        own, other = (self.valid_basenames, self.train_basenames)[:: 1 if is_valid else -1]
        names = self._apart(self.candidates(exclude, **choice), other)
        names = [name for name in names if not append or name not in set(own)]
        drawn = self._draw(names, np.full(len(self.classes), n), not_counting, max_reuse, rng, whole_groups=is_valid)
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
        *,
        shuffle: bool = True,
        **choice: Any,
    ) -> None:
        """Fill both sets, validation first: up to ``nval`` particles of a class, at most a fifth of all, no repeats.

        ``append`` adds to both sets, from images that are in neither; the rest is as in :meth:`create_set`.
        """
        rng = self._generator(seed) if shuffle else None
        old_train, old_valid = (self.train_basenames, self.valid_basenames) if append else ([], [])
        used = {*old_train, *old_valid}
        names = [name for name in self.candidates(exclude, **choice) if name not in used]
        caps = np.minimum(nval, self.counts.loc[names].sum().to_numpy() // 5)
        valid = self._draw(self._apart(names, old_train), caps, not_counting, 1, rng, whole_groups=True)
        rest = self._apart(names, [*old_valid, *valid])
        train = self._draw(rest, np.full(len(self.classes), ntrain), not_counting, max_reuse, rng)
        self._store("valid", valid, append, rng)
        self._store("train", train, append, rng)

    def filter_set(self, ds_id: str | None = None, hasmass: bool = True, method: str = "notin") -> None:
        """Keep only images that may be used and have a particle that suits.

        It has a known mass (``hasmass``), and the annotations' column ``id`` is another one than ``ds_id`` ("notin"),
        or with any other method is ``ds_id``.
        """
        rows = self._known_masses() if hasmass else pd.Series(True, self.annotations.index)
        if ds_id is not None:
            if "id" not in self.annotations:
                raise RamsesError("annotations: column id is missing, which holds the data set of each image")
            rows &= (self.annotations["id"] == ds_id) != (method == "notin")
        names = set(self.candidates()) & set(self._names[rows])
        self.train_basenames = [name for name in self.train_basenames if name in names]
        self.valid_basenames = [name for name in self.valid_basenames if name in names]
        self.other_subsets = {
            subset: [name for name in listed if name in names] for subset, listed in self.other_subsets.items()
        }
        self.dataset_id = None
        self.update_info()

    def create_split(self, valid: float = 0.2, **options: Any) -> None:
        """Divide all images that may be used into a training and a validation set, group by group.

        Args:
            valid: share of the images for validation, between 0 and 1.
            **options: stratify (True: give each class its share, too); max_per_class (most particles of a class in
                training, repeats counted; images beyond it are not used) and max_reuse (1: most uses of an image in
                training, for the sake of rare classes; without max_per_class, none gets more particles than the
                commonest class has); mass (only images with a particle of known mass); seed (a new ``self.seed``).
        """
        if not 0 < valid < 1:
            raise RamsesError(f"share of the validation set is {valid:g}; it is between 0 and 1, such as 0.2")
        ((self.train_basenames, self.valid_basenames),) = self._divide([1 - valid, valid], [1], **options)
        self.other_subsets, self.dataset_id = {}, None
        self.update_info()

    def create_folds(self, folds: int = 5, **options: Any) -> None:
        """Divide all images into folds: each validates once what the others train; ``options`` of :meth:`create_split`.

        The subsets are ``fold0-train``, ``fold0-valid``, ``fold1-train`` ... in ``other_subsets``.
        """
        if folds < 2:
            raise RamsesError(f"{folds} folds: give 2 or more")
        pairs = self._divide([1 / folds] * folds, range(folds), **options)
        self.train_basenames, self.valid_basenames = [], []
        names = [f"fold{index}-{side}" for index in range(folds) for side in SIDES]
        self.other_subsets = dict(zip(names, [each for pair in pairs for each in pair], strict=True))
        self.dataset_id = None
        self.update_info()

    def _divide(
        self,
        shares: Sequence[float],
        validating: Iterable[int],
        *,
        stratify: bool = True,
        max_per_class: int | None = None,
        max_reuse: int = 1,
        mass: bool = False,
        seed: int | None = None,
    ) -> list[tuple[list[str], list[str]]]:
        """Deal all images out to sides; for each that validates: what it leaves to training, and itself."""
        rng = self._generator(seed)
        names = sorted(self.candidates(mass=mass))
        if not names:
            reason = self.images["reason"].replace("", "no known mass").mode().iloc[0]
            raise RamsesError(f"none of {len(self.images)} images can be used, most often because of: {reason}")
        groups, _ = pd.factorize(self.images.loc[names, "group"])
        side = assign_sides(self.counts.loc[names].to_numpy(), groups, shares, stratify=stratify, rng=rng)
        pairs = []
        for index in validating:
            own = side == index
            train, valid = ([name for name, is_in in zip(names, mask, strict=True) if is_in] for mask in (~own, own))
            if max_per_class is not None or max_reuse > 1:
                most = self.counts.loc[train].sum().max() if max_per_class is None else max_per_class
                drawn = self._draw(train, np.full(len(self.classes), most), (), max_reuse, rng)
                if not drawn:
                    raise RamsesError(f"{most} particles per class: each of {len(train)} training images has more")
                train = sorted(drawn)
            pairs.append((train, valid))
        return pairs

    def _apart(self, names: Sequence[str], other: Sequence[str]) -> list[str]:
        """The images that share no group with other ones."""
        group = self.images["group"]
        taken = set(group.reindex(list(set(other))).dropna())
        return [name for name in names if group[name] not in taken]

    def _draw(
        self,
        names: Sequence[str],
        caps: np.ndarray,
        not_counting: Sequence[str],
        max_reuse: int,
        rng: np.random.Generator | None,
        whole_groups: bool = False,
    ) -> list[str]:
        """:func:`ramses_d2.data.splits.draw_capped` for images, or for whole groups of them; names with repeats."""
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

    # ---- what is in the sets

    def update_info(self) -> None:
        """Count the particles of both sets anew; needed only after the lists were changed by hand."""
        self.train_class_counts = self._class_counts(self.train_basenames)
        self.valid_class_counts = self._class_counts(self.valid_basenames)

    def _class_counts(self, names: Iterable[str]) -> dict[str, int]:
        """Particles of every class in images, repeats counted; an image without annotations counts as empty."""
        uses = pd.Series(Counter(names), dtype=float).reindex(self.counts.index, fill_value=0)
        return {name: int(count) for name, count in (uses.to_numpy() @ self.counts).items()}

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
            columns[subset] = pd.Series(self._class_counts(names) if stored is None else stored, dtype=float)
        return pd.DataFrame(columns).reindex(list(self.cls_to_idx)).fillna(0).astype(int)

    def missing_classes(self, subset: str = "valid") -> list[str]:
        """Classes of which a subset has no particle."""
        counts = self.report()[subset]
        return counts.index[counts == 0].tolist()


def is_cut(boxes: np.ndarray, size: tuple[int, int], ratio: float) -> bool:
    """Whether a box (K, 4) XYXY touches or leaves the window that the crop of an image (H, W) to an aspect ratio keeps.

    The window is turned as the image is, as the training canvas is, and lies for a square one. Sides where nothing is
    cropped do not count. The odd pixel is cropped on the right and at the bottom.
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


def split_folders(
    folders: Sequence[str | Path],
    output: str | Path,
    *,
    valid: float = 0.2,
    folds: int | None = None,
    group_by: str = AUTO,
    force: bool = False,
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> tuple[DatasetManager, Path]:
    """Divide the images of RAMSES folders into training and validation sets, or ``folds``, and write the split file.

    ``group_by`` is "none", "auto" (by batch where metadata.json has batches of several images, and enough of them), or
    see :func:`ramses_d2.data.splits.group_keys`. ``options`` are those of :meth:`DatasetManager.create_split`,
    ``settings`` those of :class:`DatasetManager`, with ``mininst`` 0. Returns the manager that holds the sets, and the
    file.
    """
    options = options or {}
    manager = DatasetManager.from_folders(folders, **{"mininst": 0} | settings)
    if unknown := set(manager.exclude) - set(manager.classes):
        raise RamsesError(
            f"excluded class {', '.join(sorted(unknown))} is not in the annotations ({', '.join(manager.classes)})"
        )
    if group_by == AUTO and has_batches(manager.images):
        manager.group(BATCH)
        sides = 2 if folds is None else folds
        candidates = manager.candidates(mass=options.get("mass", False))
        if 0 < manager.images.loc[candidates, "group"].nunique() < sides:
            logger.warning("fewer than %d batches: images of one batch will be on both sides", sides)
            manager.group(None)
    elif group_by not in (AUTO, NONE):
        manager.group(group_by)
    if folds is None:
        manager.create_split(valid, **options)
    else:
        manager.create_folds(folds, **options)
    return manager, manager.save(output, force=force)


def _read_folders(folders: Sequence[str | Path]) -> pd.DataFrame:
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


def _find_empty_images(table: pd.DataFrame, folders: Sequence[str | Path]) -> list[EmptyImage]:
    """Images that have a label image, but no rows in the table."""
    found: list[EmptyImage] = []
    for folder in map(Path, folders):
        path = folder.resolve()
        images, labelled = _base_names(path)
        annotated = set(table.loc[table["folder"] == str(path), "baseimg"].map(base_name))
        if empty := (images & labelled) - annotated:
            for dataset_dict in load_folder(folder, sorted(table["class"].unique()), only=empty)[0]:
                base = dataset_dict["image_name"].rpartition("/")[2]
                found.append((str(path), base, dataset_dict["resolution"]))
    return found


def _base_names(folder: Path) -> tuple[set[str], set[str]]:
    """Base names of the images and of the label images."""
    found = (folder / "images").iterdir() if (folder / "images").is_dir() else ()
    images = {path.stem for path in found if path.suffix.lower() in IMAGE_SUFFIXES}
    return images, {path.stem for path in (folder / "labels").glob("*.png")}


def _folder_keys(folders: Iterable[str]) -> dict[str, str]:
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


def _class_ids(class_names: Sequence[str], exclude: Sequence[str] = ()) -> dict[str, int]:
    """Class name -> id from 1, without the excluded ones."""
    return {name: index for index, name in enumerate((n for n in class_names if n not in exclude), start=1)}
