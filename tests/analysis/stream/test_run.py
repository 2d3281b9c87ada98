"""A belt as a run folder: every particle in one row, every frame with its pixels, whatever happens on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from ramses_d2.analysis.particles import COLUMNS
from ramses_d2.analysis.run import ImageFile, RunFolder
from ramses_d2.analysis.stream.belt import BeltOrientation
from ramses_d2.analysis.stream.run import BELT_COLUMNS, StreamRun, WindowStore
from ramses_d2.errors import RamsesError
from tests.analysis.stream.belts import Belt, make_belt, paint

CLASSES = ["Ra", "Rb", "Rc", "Ru", "Rg"]


class KilledError(Exception):
    """Stands for SIGKILL."""


class Camera:
    """The frames of a belt, as files whose pixels are labels; counts what the network is asked."""

    def __init__(self, belt: Belt, edges: list[int], overlap: int = 0, settings: dict | None = None) -> None:
        self.belt, self.asked, self.dies_at = belt, 0, -1
        self.settings = {"overlap": overlap, "overlays": False} if settings is None else settings
        self.orientation = BeltOrientation(self.settings.get("axis", "rows"), self.settings.get("direction", "forward"))
        self.rows = [(max(a - overlap, 0), b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        self.images = [ImageFile(Path(f"belt/frame_{i}.png"), f"frame_{i}", 2.0) for i in range(len(self.rows))]
        self.broken: set[int] = set()
        self.warnings: list[str] = []

    def read(self, image: ImageFile) -> np.ndarray:
        number = int(image.name.removeprefix("frame_"))
        if number in self.broken:
            raise RamsesError(f"{image.path}: truncated")
        start, end = self.rows[number]
        return self.orientation.to_image(self.belt.labels[start:end])

    def predict(self, image: np.ndarray) -> Any:
        self.asked += 1
        if self.asked == self.dies_at:
            raise KilledError
        return self.belt.predict(np.ascontiguousarray(image))

    def run(
        self, folder: Path, images: list[ImageFile] | None = None, weights: str = "old", force: bool = False
    ) -> tuple[pd.DataFrame, StreamRun]:
        run = RunFolder(str(folder), CLASSES, {"weights": weights}, force=force)
        stream = StreamRun(run, self.predict, self.read, 2.0, self.warnings.append, **self.settings)
        list(stream.frames(self.images if images is None else images))
        return stream.finish(), stream


def labels_of(folder: Path, number: int) -> np.ndarray:
    return np.asarray(Image.open(folder / f"labels/frame_{number}.png"))


@pytest.mark.parametrize(
    ("axis", "direction"), [("rows", "forward"), ("rows", "backward"), ("columns", "forward"), ("columns", "backward")]
)
def test_every_particle_once_and_all_its_pixels(axis: str, direction: str, tmp_path: Path) -> None:
    belt = make_belt(150, 700, 120, long=2)
    settings = dict(overlap=10, axis=axis, direction=direction, overlays=False, fragments="keep")
    camera = Camera(belt, [0, 130, 200, 330, 400, 560, 700], overlap=10, settings=settings)
    table, _ = camera.run(tmp_path / "run")
    assert list(table.columns) == [*COLUMNS, *BELT_COLUMNS]
    assert sorted(table["particle"]) == list(range(1, 151)) and not table.duplicated(["baseimg", "label"]).any()
    assert table["mass"].sum() == pytest.approx(belt.masses[belt.areas > 0].sum(), rel=1e-9)
    assert sorted(table["area"]) == sorted(belt.areas[1:])
    # Each frame's label image shows the same partition of its pixels as the truth
    for number, (start, end) in enumerate(camera.rows):
        found = camera.orientation.to_belt(labels_of(tmp_path / "run", number))
        true = belt.labels[start:end]
        pairs = np.unique(np.stack([found.ravel(), true.ravel()]), axis=1)
        assert len(pairs[0]) == len(np.unique(found)) == len(np.unique(true)) and pairs[:, 0].tolist() == [0, 0]
    # The row of a particle leads to its pixels: in the frame that it names, and on the belt
    for row in table.itertuples():
        rows, columns = np.nonzero(belt.labels == belt.labels[_a_pixel(camera, tmp_path / "run", row)])
        assert (row.belt_x0, row.belt_x1) == (rows.min(), rows.max() + 1)
        assert (row.belt_y0, row.belt_y1) == (columns.min(), columns.max() + 1)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["complete"] and sum(p["particles"] for p in record["pictures"]) == 150
    assert not (tmp_path / "run/windows").exists()


def _a_pixel(camera: Camera, folder: Path, row: Any) -> tuple[int, int]:
    """Belt row and column of one pixel of a row of the table, by its image, its box and its label."""
    number = int(Path(row.baseimg).stem.removeprefix("frame_"))
    labels = labels_of(folder, number)
    ys, xs = np.nonzero(labels == row.label)
    assert len(ys) and row.x0 <= ys.min() < row.x1 and row.y0 <= xs.min() < row.y1
    marked = np.zeros(labels.shape, bool)
    marked[ys[0], xs[0]] = True
    belt_rows, belt_columns = np.nonzero(camera.orientation.to_belt(marked))
    return camera.rows[number][0] + int(belt_rows[0]), int(belt_columns[0])


def test_coco_annotations_are_what_each_frame_shows(tmp_path: Path) -> None:
    belt = paint((90, 40), (20, 50, 5, 15), (60, 70, 20, 30))  # the first one lies on the border at row 30
    table, _ = Camera(belt, [0, 30, 60, 90]).run(tmp_path / "run")
    assert table["mass"].tolist() == [300, 100] and table["baseimg"].tolist() == ["frame_0.png", "frame_2.png"]
    assert table[["x0", "x1", "y0", "y1"]].iloc[0].tolist() == [20, 50, 5, 15]  # reaches beyond its frame of 30 rows
    content = json.loads((tmp_path / "run/coco_instances.json").read_text())
    seen = [(a["image_id"], a["particle"], a["mass"], a["bbox"]) for a in content["annotations"]]
    assert seen == [(1, 1, 100, [5, 20, 10, 10]), (2, 1, 200, [5, 0, 10, 20]), (3, 2, 100, [20, 0, 10, 10])]
    assert [int(mask_utils.area(a["segmentation"])) for a in content["annotations"]] == [100, 200, 100]


def test_a_killed_run_asks_the_network_nothing_twice(tmp_path: Path) -> None:
    belt = make_belt(80, 500, 100)
    edges = [0, 100, 200, 300, 400, 500]
    whole = Camera(belt, edges)
    expected, _ = whole.run(tmp_path / "whole")
    camera = Camera(belt, edges)
    camera.dies_at = 4
    with pytest.raises(KilledError):
        camera.run(tmp_path / "run")
    assert not (tmp_path / "run/annotations.csv").exists()
    again = Camera(belt, edges)
    table, _ = again.run(tmp_path / "run")
    assert again.asked == whole.asked - 3
    pd.testing.assert_frame_equal(table, expected)
    for number in range(5):
        assert (labels_of(tmp_path / "run", number) == labels_of(tmp_path / "whole", number)).all()


def test_a_forced_run_uses_nothing_of_the_one_before(tmp_path: Path) -> None:
    camera = Camera(make_belt(80, 500, 100), [0, 100, 200, 300, 400, 500])
    camera.dies_at = 4
    with pytest.raises(KilledError):
        camera.run(tmp_path / "run")
    heavier = Camera(camera.belt._replace(masses=2 * camera.belt.masses), [0, 100, 200, 300, 400, 500])
    table, _ = heavier.run(tmp_path / "run", weights="new", force=True)
    assert table["mass"].sum() == pytest.approx(heavier.belt.masses[heavier.belt.areas > 0].sum())


def test_a_frame_that_is_repaired_before_a_resume_is_looked_at(tmp_path: Path) -> None:
    belt = paint((150, 40), (20, 40, 5, 15), (50, 60, 20, 30), (80, 100, 5, 15), (130, 140, 5, 15))
    edges = [0, 30, 60, 90, 120, 150]
    camera = Camera(belt, edges)
    camera.broken, camera.dies_at = {1}, 4
    with pytest.raises(KilledError):
        camera.run(tmp_path / "run")
    table, _ = Camera(belt, edges).run(tmp_path / "run")
    fresh, _ = Camera(belt, edges).run(tmp_path / "fresh")
    pd.testing.assert_frame_equal(table, fresh)


def test_a_speck_at_the_cut_does_not_take_its_particle_along(tmp_path: Path) -> None:
    belt = paint((60, 40), (20, 40, 5, 15))
    belt.labels[0, 5] = 1
    settings = dict(keep_cut=False, overlays=False)
    table, _ = Camera(belt, [0, 60], settings=settings).run(tmp_path / "run")
    assert table["area"].tolist() == [200] and table["edge"].tolist() == [""]


def test_names_without_a_counter_are_told(tmp_path: Path) -> None:
    camera = Camera(paint((60, 40), (20, 40, 5, 15)), [0, 30, 60])
    names = ["morning", "noon"]
    read = camera.read
    camera.read = lambda image: read(camera.images[names.index(image.name)])
    camera.run(tmp_path / "run", [ImageFile(Path(f"belt/{name}.png"), name, 2.0) for name in names])
    assert camera.warnings == ["the file names have no counter: a missing frame cannot be noticed"]


def test_a_stored_window_that_cannot_be_read_is_predicted_again(tmp_path: Path) -> None:
    belt = make_belt(20, 100, 80)
    asked = []

    def predict(image: np.ndarray) -> Any:
        asked.append(1)
        return belt.predict(image)

    first = WindowStore(tmp_path / "w", predict)(belt.labels)
    stored = next((tmp_path / "w").iterdir())
    same = WindowStore(tmp_path / "w", predict)(belt.labels)
    assert len(asked) == 1 and len(same) == len(first)
    for name in ("boxes", "classes", "scores", "masses"):
        assert np.array_equal(getattr(same, name), getattr(first, name))
    assert all(np.array_equal(a, b) for a, b in zip(same.masks, first.masks, strict=True))
    stored.write_bytes(stored.read_bytes()[:200])
    WindowStore(tmp_path / "w", predict)(belt.labels)
    WindowStore(tmp_path / "w", predict)(belt.labels[:50])  # another image
    assert len(asked) == 3


def test_broken_and_missing_frames_cut_the_belt(tmp_path: Path) -> None:
    belt = paint((120, 40), (5, 15, 5, 15), (25, 35, 5, 15), (85, 95, 5, 15))
    camera = Camera(belt, [0, 30, 60, 90, 120])
    camera.broken = {1}
    table, stream = camera.run(tmp_path / "broken")
    assert stream.failed == [("belt/frame_1.png", "belt/frame_1.png: truncated")] and "truncated" in camera.warnings[0]
    assert table["mass"].tolist() == [100, 50, 100] and table["edge"].tolist() == ["", "bottom", ""]
    assert table["baseimg"].tolist() == ["frame_0.png", "frame_0.png", "frame_2.png"]

    camera = Camera(belt, [0, 30, 60, 90, 120])
    table, _ = camera.run(tmp_path / "missing", [camera.images[i] for i in (0, 1, 3)])
    assert camera.warnings == ["frame_3.png does not continue frame_1.png: the frame number usually changes by +1, "
                               "here by +2: the belt is cut there"] or "missing" in camera.warnings[0]  # fmt: skip
    assert table["mass"].tolist() == [100, 100, 50] and table["edge"].tolist() == ["", "", "top"]
    assert json.loads((tmp_path / "missing/run.json").read_text())["notes"] == camera.warnings


def test_cut_particles_can_be_left_out(tmp_path: Path) -> None:
    belt = paint((60, 40), (0, 10, 5, 15), (20, 40, 5, 15), (55, 60, 5, 15))
    kept, _ = Camera(belt, [0, 30, 60]).run(tmp_path / "kept")
    assert kept["edge"].tolist() == ["top", "", "bottom"]
    settings = dict(keep_cut=False, overlays=False)
    table, _ = Camera(belt, [0, 30, 60], settings=settings).run(tmp_path / "run")
    assert table["mass"].tolist() == [200] and not labels_of(tmp_path / "run", 0)[:10].any()


@pytest.mark.parametrize(("axis", "direction"), [("rows", "forward"), ("columns", "backward")])
def test_stray_parts_of_particles(axis: str, direction: str, tmp_path: Path) -> None:
    # One particle in two parts: 200 px in frames 0 and 1, and 100 px in frame 1 alone
    belt = paint((120, 40), (20, 40, 5, 15))
    belt.labels[55:65, 5:15] = 1
    belt.areas[1], belt.masses[1] = 300, 300.0
    rows = {"drop": [(20, 40, 300)], "keep": [(20, 65, 300)], "split": [(20, 40, 200), (55, 65, 100)]}
    for mode, expected in rows.items():
        settings = dict(axis=axis, direction=direction, fragments=mode, overlays=False)
        camera = Camera(belt, [0, 30, 120], settings=settings)
        table, _ = camera.run(tmp_path / mode)
        found = table[["belt_x0", "belt_x1", "mass"]].itertuples(index=False, name=None)
        assert list(found) == expected, mode
        frames = {"drop": [0], "keep": [0], "split": [0, 1]}[mode]
        assert table["baseimg"].tolist() == [f"frame_{i}.png" for i in frames]
        last = camera.orientation.to_belt(labels_of(tmp_path / mode, 1))
        assert last[25:35, 5:15].any() == (mode != "drop")
    settings = dict(min_area_mm2=76, fragments="split", overlays=False)  # 300 px at 2 px/mm are 75 mm2
    assert not len(Camera(belt, [0, 60, 120], settings=settings).run(tmp_path / "small")[0])


def test_overlays_show_what_lies_in_each_frame(tmp_path: Path) -> None:
    belt = paint((60, 60), (20, 40, 5, 25))
    camera = Camera(belt, [0, 30, 60], settings=dict())
    plain, camera.read = camera.read, lambda image: np.repeat(plain(image).astype(np.uint8)[..., None], 3, axis=2)
    camera.predict = lambda image: belt.predict(np.ascontiguousarray(image[..., 0]))
    camera.run(tmp_path / "run")
    for number, rows in enumerate((slice(20, 30), slice(0, 10))):
        overlay = Image.open(tmp_path / f"run/overlays/frame_{number}.jpg")
        scale = overlay.height / 30
        drawn = np.asarray(overlay).max(axis=2) > 100
        inside = np.zeros((30, 60), bool)
        inside[rows, 5:25] = True
        inside = np.asarray(Image.fromarray(inside).resize(overlay.size)) > 0
        assert drawn[inside].any() and scale >= 1
        assert not drawn[:, round(40 * scale) :].any()
