"""Training and validation sets from annotated folders, after the original's class of the same name (reference 6.4)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ramses_d2.errors import RamsesError

from . import manager_files
from .annotated_images import AnnotatedImages, class_ids
from .image_table import common_class_names, find_empty_images, read_folders


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

        Raises:
            RamsesError: anything missing or wrong in a folder.
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

        Raises:
            RamsesError: a file or folder is missing or wrong.
        """
        return manager_files.read_manager(cls, *paths)

    def save(
        self,
        path: str | Path,
        dataset_id: str | None = None,
        *,
        format: str = manager_files.OURS,
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

        Raises:
            RamsesError: the file exists, or the format cannot hold the sets.
        """
        return manager_files.save_manager(self, Path(path), dataset_id, format, force)

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

        Raises:
            RamsesError: no annotations, or a wrong argument.
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

        Raises:
            RamsesError: no annotations, or a wrong argument.
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

        Raises:
            RamsesError: no annotations, or no column ``id``.
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

        Raises:
            RamsesError: no annotations, too few groups, or a wrong share.
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

        Raises:
            RamsesError: no annotations, or too few groups.
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
