"""The images that sets are chosen from: their annotations, which of them may be used, and which belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ramses_d2.errors import RamsesError

from .annotations_csv import MAX_LABEL
from .image_table import EmptyImage, folder_keys, locate_images, rejected_images
from .split_groups import group_keys
from .splitting import assign_sides, draw_capped, group_numbers

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

        Raises:
            RamsesError: a column or folder is missing, or an impossible shape.
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
        self.images = self.places.drop_duplicates("picture").set_index("picture").assign(VALID=True, reason="")
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

        Raises:
            RamsesError: there is nothing to group by.
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

        Raises:
            RamsesError: no annotations, no such column or constraint.
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

        Raises:
            RamsesError: no images, or too few groups.
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
        """Training images, capped and repeated, sorted by name; see ``DatasetManager.create_split``.

        Raises:
            RamsesError: the cap leaves none.
        """
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
