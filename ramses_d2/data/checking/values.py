"""Checks of the classes, resolutions and masses of a folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import pandas as pd

from ramses_d2.data.checking.contents import FolderContents
from ramses_d2.data.checking.findings import Finding, Kind, finding, row_findings
from ramses_d2.data.checking.images import image_file
from ramses_d2.data.checking.pixels import Facts

# A resolution is far from the others if it is further than this factor from their median and than this many times their
# spread, and only few images have such a one; two cameras are no outliers
_RESOLUTION_FACTOR, _RESOLUTION_SPREADS, _FEW = 3.0, 8.0, 0.1
_RESOLUTION_LIMITS = (0.01, 1000.0)  # px per mm: a pixel of 100 mm, and of 1 um
_SAMPLES = 12  # of a class, for its spread to mean something
_MASS_SPREADS = 5.0
_SMALLEST_SPREAD = 0.1  # of log(mass / area): coins have next to none, but their outlines are not that exact
_SIGMA = 1.4826  # standard deviation of a normal distribution over its median absolute deviation


def check_classes(
    contents: FolderContents, rows: pd.DataFrame, class_names: Collection[str], source: str
) -> Iterator[Finding]:
    """Rows whose class is not in a list.

    Args:
        contents: the folder.
        rows: rows to check.
        class_names: the list.
        source: where it comes from.
    """
    unknown = rows[(rows["class"] != "") & ~rows["class"].isin(list(class_names))]
    known = ", ".join(class_names)
    yield from row_findings(
        Kind.UNKNOWN_CLASS,
        contents.folder,
        unknown,
        lambda name: f"class {name!r} is not in {source} ({known})",
        "class",
    )


def check_resolutions(contents: FolderContents, facts: Mapping[str, Facts]) -> tuple[list[Finding], set[str]]:
    """Resolutions that differ within an image, are unknown, or are far from those of the other images.

    Args:
        contents: the folder.
        facts: base name -> what its pixels say.

    Returns:
        findings, and the base names of the images whose resolution is not to be trusted.
    """
    rows = contents.rows[contents.rows["res"].notna()]
    counts = rows.groupby(["baseimg", "res"], sort=False).size()
    usual = pd.Series(dict(counts.groupby("baseimg").idxmax().tolist()), dtype=float)  # the most frequent of each image
    expected = rows["baseimg"].map(usual).astype(float)
    other = rows.assign(expected=expected)[~np.isclose(rows["res"], expected, rtol=1e-4)]
    findings = list(
        row_findings(
            Kind.SEVERAL_RESOLUTIONS,
            contents.folder,
            other,
            lambda res, expected: f"res is {res:g}, other rows of the image say {expected:g}",
            "res",
            "expected",
        )
    )
    findings += _check_unknown(contents, facts)
    outliers = _resolution_outliers(usual)
    first_rows = rows.index[~rows["baseimg"].duplicated()]
    first = dict(zip(rows.loc[first_rows, "baseimg"], first_rows, strict=True))
    median = usual.median()
    for base in outliers:
        message = f"res is {usual[base]:g} px/mm, the median of all images {median:g}"
        findings.append(
            finding(
                Kind.RESOLUTION_OUTLIER, contents.folder, "annotations.csv", message, row=int(first[base]), image=base
            )
        )
    return findings, {*outliers, *other["baseimg"]}


def _check_unknown(contents: FolderContents, facts: Mapping[str, Facts]) -> Iterator[Finding]:
    """Empty images take their resolution from metadata.json, or from the rows if all have the same."""
    if contents.scan is None or contents.rows["res"].nunique() == 1:
        return
    annotated = {*contents.rows["baseimg"], *contents.unusable}
    for base in contents.images:
        _, label = facts[base]
        is_empty = label is not None and label.particles is not None and not len(label.particles)
        if is_empty and base not in annotated and base not in contents.resolutions:
            message = "an empty image of unknown resolution; add its file_name and res to metadata.json, under images"
            yield finding(Kind.RESOLUTION_UNKNOWN, contents.folder, image_file(contents, base), message, image=base)


def _resolution_outliers(usual: pd.Series) -> list[str]:
    absurd = ~usual.between(*_RESOLUTION_LIMITS)
    distance = np.log(usual / usual.median()).abs()
    limit = max(np.log(_RESOLUTION_FACTOR), _RESOLUTION_SPREADS * _SIGMA * distance.median())
    far = distance > limit
    if len(usual) < 3 or far.sum() > max(1, _FEW * len(usual)):
        far &= False
    return usual.index[absurd | far].tolist()


def check_masses(contents: FolderContents, rows: pd.DataFrame, untrusted: Collection[str]) -> Iterator[Finding]:
    """Rows whose mass per area is far from that of their class, as slips of the decimal point or of the unit make it.

    Args:
        contents: the folder.
        rows: from :func:`ramses_d2.data.checking.rows.check_rows`. Particles at the border, which may be cut, and label
            images of another size than their image are left out.
        untrusted: base names of the images whose resolution is doubtful.
    """
    usable = rows["mass"].notna() & rows["comparable"] & ~rows["touches"] & rows["res"].notna() & (rows["class"] != "")
    rows = rows[usable & ~rows["baseimg"].isin(list(untrusted))]
    density = rows["mass"] / (rows["pixel_area"] / rows["res"] ** 2) * 100  # g/cm2
    groups = np.log(density).groupby(rows["class"])
    deviation = np.log(density) - groups.transform("median")
    spread = (_SIGMA * deviation.abs().groupby(rows["class"]).transform("median")).clip(lower=_SMALLEST_SPREAD)
    score = deviation.abs() / spread
    far = (score > _MASS_SPREADS) & (groups.transform("size") >= _SAMPLES)
    yield from row_findings(
        Kind.MASS_OUTLIER,
        contents.folder,
        rows.assign(density=density, usual=density / np.exp(deviation), score=score)[far],
        lambda mass, density, name, usual, score: (
            f"{mass:g} g are {density:.3g} g/cm2, usual for {name} are {usual:.3g} ({score:.1f} times the spread away)"
        ),
        "mass",
        "density",
        "class",
        "usual",
        "score",
    )
