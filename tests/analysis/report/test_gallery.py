"""Cut-outs of particles."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ramses_d2.analysis.report.data import read_run
from ramses_d2.analysis.report.gallery import cut_out, make_gallery
from tests.analysis.report.hand_made import COLORS, make_run


def decoded(source: str) -> np.ndarray:
    head, data = source.split(",", 1)
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)


def test_gallery(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path))
    largest, doubtful, cut = make_gallery(run, 3, {"Coin"})
    grams = run.table[run.table["class"] != "Coin"]["mass"].nlargest(3)
    assert [f"{mass:.3g} g" in item.name for mass, item in zip(grams, largest.cut_outs, strict=True)] == [True] * 3
    scores = run.table["score"].nsmallest(3)
    assert [item.name.rpartition(" ")[2] for item in doubtful.cut_outs] == [f"{score:.2f}" for score in scores]
    assert [item.place for item in cut.cut_outs] == ["belt_002.png no. 4", "belt_001.png no. 4", "belt_000.png no. 4"]
    assert cut.explanation == "the largest of 6" and cut.cut_outs[0].name == "X01 · 4.8 g · 15.6 mm · score 0.85"
    for item in (*largest.cut_outs, *doubtful.cut_outs, *cut.cut_outs):
        value = COLORS[item.name.split(" ")[0]]
        # The particle itself, not bleached
        assert (np.abs(decoded(item.source) - value) <= 3).all(axis=2).mean() > 0.15


def test_cut_coins_are_no_cut_particles_and_empty_edges_may_be_nan(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path))
    run.table.loc[run.table["class"] == "Coin", "edge"] = "right"
    run.table["edge"] = run.table["edge"].where(run.table["edge"] != "", np.nan)
    cut = make_gallery(run, 9, {"Coin"})[2]
    assert cut.explanation == "the largest of 6" and len(cut.cut_outs) == 6
    run.table["edge"] = np.nan
    cut = make_gallery(run, 3, {"Coin"})[2]
    assert not cut.cut_outs and cut.missing == "no particle touches an edge"


@pytest.mark.parametrize("scale", [1, 3], ids=["image", "enlarged overlay"])
@pytest.mark.parametrize("size", [(30, 40), (400, 600)], ids=["small", "large"])
def test_cut_out_shows_the_particle(size: tuple[int, int], scale: int) -> None:
    labels = np.zeros((3 * size[0], 3 * size[1]), np.uint16)
    labels[size[0] : 2 * size[0], : size[1]] = 5
    labels[:5, :5] = 4
    image = np.where(labels == 5, 200, np.where(labels == 4, 250, 20)).astype(np.uint8)
    image = np.dstack([np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)] * 3)
    row = pd.Series({"label": 5.0, "x0": size[0], "x1": 2 * size[0], "y0": 0, "y1": size[1]})
    shown = decoded(cut_out(image, labels, row))
    assert shown.shape == (440, 440, 3)
    inside = np.abs(shown - 200).max(axis=2) < 8
    side = round(1.5 * size[1])
    assert inside.mean() == pytest.approx(size[0] * size[1] / side**2, rel=0.15)  # less the outline
    assert inside[:, :20].any() and not inside[:, -20:].any()  # it lies at the left edge
    assert (np.abs(shown - (20 + 255) // 2).max(axis=2) < 8).mean() > 0.3  # the surroundings are bleached by half
    assert (shown[:, :, 0] - shown[:, :, 2] > 60).mean() > 0.002  # the yellow outline
    assert cut_out(image, labels, row.replace(5.0, 6.0)) is None  # not what the label image holds
    assert cut_out(image, labels, row.drop("x1")) is None


def test_overlay_stands_in_for_a_lost_image(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "overlays").mkdir()
    for path in (tmp_path / "data/images").iterdir():
        image = Image.open(path)
        image.resize((2 * image.width, 2 * image.height), Image.NEAREST).save(run / "overlays" / f"{path.stem}.jpg")
        path.unlink()
    largest = make_gallery(read_run(run), 2)[0]
    assert len(largest.cut_outs) == 2 and not largest.missing
