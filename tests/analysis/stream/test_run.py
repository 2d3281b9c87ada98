"""A belt as a run folder: every particle in one row, every frame with its pixels, whatever happens on the way."""

from __future__ import annotations

import json
from itertools import product
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
from ramses_d2.analysis.stream.run import BELT_COLUMNS, StreamRun, WindowStore, label_of
from ramses_d2.analysis.stream.stitch import FrameInstances
from ramses_d2.errors import RamsesError
from tests.analysis.stream.belts import Belt, make_belt, paint

CLASSES = ["Ra", "Rb", "Rc", "Ru", "Rg"]


class KilledError(Exception):
    """Stands for SIGKILL."""


class Camera:
    """The frames of a belt, as files whose pixels are labels; counts what the network is asked."""

    def __init__(self, belt: Belt, edges: list[int], overlap: int = 0, **settings: Any) -> None:
        self.belt, self.asked, self.dies_at, self.broken, self.warnings = belt, 0, -1, set(), []
        self.settings = {"overlap": overlap, "overlays": False} | settings
        self.orientation = BeltOrientation(settings.get("axis", "rows"), settings.get("direction", "forward"))
        self.rows = [(max(a - overlap, 0), b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        self.images = [ImageFile(Path(f"belt/frame_{i}.png"), f"frame_{i}", 2.0) for i in range(len(self.rows))]

    def read(self, image: ImageFile) -> np.ndarray:
        number = int(image.name.removeprefix("frame_"))
        if number in self.broken:
            raise RamsesError(f"{image.path}: truncated")
        return self.orientation.to_image(self.belt.labels[slice(*self.rows[number])])

    def predict(self, image: np.ndarray) -> FrameInstances:
        self.asked += 1
        if self.asked == self.dies_at:
            raise KilledError
        return self.belt.predict(np.ascontiguousarray(image))

    def run(
        self, folder: Path, images: list[ImageFile] | None = None, weights: str = "old", force: bool = False
    ) -> Any:
        run = RunFolder(str(folder), CLASSES, {"weights": weights}, force=force)
        stream = StreamRun(run, self.predict, self.read, 2.0, self.warnings.append, **self.settings)
        list(stream.frames(self.images if images is None else images))
        return stream.finish(), stream


def labels_of(folder: Path, number: int) -> np.ndarray:
    return np.asarray(Image.open(folder / f"labels/frame_{number}.png"))


@pytest.mark.parametrize(("axis", "direction"), list(product(("rows", "columns"), ("forward", "backward"))))
def test_every_particle_once_and_all_its_pixels(axis: str, direction: str, tmp_path: Path) -> None:
    belt = make_belt(150, 700, 120, long=2)
    edges = [0, 130, 200, 330, 400, 560, 700]
    camera = Camera(belt, edges, overlap=10, axis=axis, direction=direction, fragments="keep")
    table, _ = camera.run(tmp_path)
    assert list(table.columns) == [*COLUMNS, *BELT_COLUMNS]
    assert sorted(table["particle"]) == list(range(1, 151)) and not table.duplicated(["baseimg", "label"]).any()
    assert table["mass"].sum() == pytest.approx(belt.masses[belt.areas > 0].sum(), rel=1e-9)
    assert sorted(table["area"]) == sorted(belt.areas[1:])
    # Each frame's label image shows the same partition of its pixels as the truth
    for number, (start, end) in enumerate(camera.rows):
        found, true = camera.orientation.to_belt(labels_of(tmp_path, number)), belt.labels[start:end]
        pairs = np.unique(np.stack([found.ravel(), true.ravel()]), axis=1)
        assert len(pairs[0]) == len(np.unique(found)) == len(np.unique(true)) and pairs[:, 0].tolist() == [0, 0]
    # The row of a particle leads to its pixels: in the frame that it names, and on the belt
    for row in table.itertuples():
        number = int(Path(row.baseimg).stem.removeprefix("frame_"))
        marked = labels_of(tmp_path, number) == row.label
        ys, xs = np.nonzero(marked)
        assert len(ys) and row.x0 <= ys.min() < row.x1 and row.y0 <= xs.min() < row.y1
        a_row, a_column = np.argwhere(camera.orientation.to_belt(marked))[0]
        rows, columns = np.nonzero(belt.labels == belt.labels[camera.rows[number][0] + a_row, a_column])
        assert (row.belt_x0, row.belt_x1, row.belt_y0, row.belt_y1) == (
            *(rows.min(), rows.max() + 1, columns.min(), columns.max() + 1),
        )
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["complete"] and sum(p["particles"] for p in record["pictures"]) == 150
    assert not (tmp_path / "windows").exists()


def test_labels_begin_again_behind_the_largest_one() -> None:
    assert [label_of(number) for number in (1, 65535, 65536, 131071)] == [1, 65535, 1, 1]


@pytest.mark.parametrize("scores", [[0.9, 0.5], [0.5, 0.9]])
def test_of_two_particles_that_claim_a_pixel_the_surer_one_has_it(scores: list[float], tmp_path: Path) -> None:
    camera, mask = Camera(paint((60, 40)), [0, 60]), np.ones((20, 10), bool)
    boxes = [[5, 20, 15, 40], [10, 20, 20, 40]]
    camera.predict = lambda image: FrameInstances([mask, mask], boxes, [0, 1], scores, [1, 1])
    table, _ = camera.run(tmp_path)
    surer = table.loc[table["score"].idxmax()]
    assert (labels_of(tmp_path, 0)[20:40, surer.y0 : surer.y1] == surer.label).all()


def test_coco_annotations_are_what_each_frame_shows(tmp_path: Path) -> None:
    belt = paint((90, 40), (20, 50, 5, 15), (60, 70, 20, 30))  # the first one lies on the border at row 30
    table, _ = Camera(belt, [0, 30, 60, 90]).run(tmp_path)
    assert table["mass"].tolist() == [300, 100] and table["baseimg"].tolist() == ["frame_0.png", "frame_2.png"]
    assert table[["x0", "x1", "y0", "y1"]].iloc[0].tolist() == [20, 50, 5, 15]  # reaches beyond its frame of 30 rows
    content = json.loads((tmp_path / "coco_instances.json").read_text())
    seen = [(a["image_id"], a["particle"], a["mass"], a["bbox"]) for a in content["annotations"]]
    assert seen == [(1, 1, 100, [5, 20, 10, 10]), (2, 1, 200, [5, 0, 10, 20]), (3, 2, 100, [20, 0, 10, 10])]
    assert [int(mask_utils.area(a["segmentation"])) for a in content["annotations"]] == [100, 200, 100]


def killed(camera: Camera, folder: Path) -> None:
    camera.dies_at = 4
    with pytest.raises(KilledError):
        camera.run(folder)


def test_a_killed_run_asks_the_network_nothing_twice(tmp_path: Path) -> None:
    belt, edges = make_belt(80, 500, 100), [0, 100, 200, 300, 400, 500]
    whole, again = Camera(belt, edges), Camera(belt, edges)
    expected, _ = whole.run(tmp_path / "whole")
    killed(Camera(belt, edges), tmp_path / "run")
    assert not (tmp_path / "run/annotations.csv").exists()
    table, _ = again.run(tmp_path / "run")
    assert again.asked == whole.asked - 3
    pd.testing.assert_frame_equal(table, expected)
    for number in range(5):
        assert (labels_of(tmp_path / "run", number) == labels_of(tmp_path / "whole", number)).all()


def test_a_forced_run_uses_nothing_of_the_one_before(tmp_path: Path) -> None:
    belt, edges = make_belt(80, 500, 100), [0, 100, 200, 300, 400, 500]
    killed(Camera(belt, edges), tmp_path)
    table, _ = Camera(belt._replace(masses=2 * belt.masses), edges).run(tmp_path, weights="new", force=True)
    assert table["mass"].sum() == pytest.approx(2 * belt.masses[belt.areas > 0].sum())


def test_a_frame_that_is_repaired_before_a_resume_is_looked_at(tmp_path: Path) -> None:
    belt = paint((150, 40), (20, 40, 5, 15), (50, 60, 20, 30), (80, 100, 5, 15), (130, 140, 5, 15))
    cameras = [Camera(belt, [0, 30, 60, 90, 120, 150]) for _ in range(3)]
    cameras[0].broken = {1}
    killed(cameras[0], tmp_path / "run")
    (table, _), (fresh, _) = cameras[1].run(tmp_path / "run"), cameras[2].run(tmp_path / "fresh")
    pd.testing.assert_frame_equal(table, fresh)


IMAGE = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
MASKS = [np.random.default_rng(0).random((8, 9)) < 0.5, np.ones((3, 2), bool)]
TWO = FrameInstances(MASKS, [[1, 2, 10, 10], [20, 4, 22, 7]], [0, 2], [0.9, 0.5], [1.5, np.nan])
NONE = FrameInstances([], [], [], [], [])


@pytest.mark.parametrize("expected", [TWO, NONE])
def test_a_stored_window_is_not_predicted_again(expected: FrameInstances, tmp_path: Path) -> None:
    asked = []
    for image in (IMAGE, IMAGE, IMAGE + 1, IMAGE[:10]):  # other pixels, another image
        found = WindowStore(tmp_path, lambda image: asked.append(image) or expected)(image)
        assert all(np.array_equal(*masks) for masks in zip(found.masks, expected.masks, strict=True))
        for name in ("boxes", "classes", "scores", "masses"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert len(asked) == 3
    WindowStore(tmp_path, lambda image: asked.append(image) or expected, resumed=False)(IMAGE[:10])
    assert len(asked) == 4 and [path.name for path in tmp_path.iterdir()] == ["000000.npz"]


def test_damage_at_any_place_of_a_stored_window_is_no_traceback(tmp_path: Path) -> None:
    WindowStore(tmp_path, lambda image: TWO)(IMAGE)
    path, asked = tmp_path / "000000.npz", []
    whole = path.read_bytes()
    damaged = [whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :] for place in range(0, len(whole), 3)]
    for content in [*damaged, whole[:200]]:
        path.write_bytes(content)
        WindowStore(tmp_path, lambda image: asked.append(1) or TWO)(IMAGE)
    assert len(asked) > len(whole) / 6  # not every byte matters


def test_a_speck_at_the_cut_does_not_take_its_particle_along(tmp_path: Path) -> None:
    belt = paint((60, 40), (20, 40, 5, 15))
    belt.labels[0, 5] = 1
    table, _ = Camera(belt, [0, 60], keep_cut=False).run(tmp_path)
    assert table["area"].tolist() == [200] and table["edge"].tolist() == [""]


def test_names_without_a_counter_are_told(tmp_path: Path) -> None:
    camera = Camera(paint((60, 40), (20, 40, 5, 15)), [0, 30, 60])
    names, read = ["morning", "noon"], camera.read
    camera.read = lambda image: read(camera.images[names.index(image.name)])
    camera.run(tmp_path, [ImageFile(Path(f"belt/{name}.png"), name, 2.0) for name in names])
    assert len(camera.warnings) == 1 and "counter" in camera.warnings[0]


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
    (warning,) = camera.warnings
    assert "missing between frame_1.png and frame_3.png" in warning
    assert table["mass"].tolist() == [100, 100, 50] and table["edge"].tolist() == ["", "", "top"]
    assert json.loads((tmp_path / "missing/run.json").read_text())["notes"] == camera.warnings


def test_a_frame_that_does_not_fit_is_named(tmp_path: Path) -> None:
    camera = Camera(paint((60, 40)), [0, 30, 60], overlap=0)
    camera.settings["overlap"] = 30
    with pytest.raises(RamsesError, match=r"belt/frame_1\.png: .* overlap by 30 px"):
        camera.run(tmp_path)


def test_cut_particles_can_be_left_out(tmp_path: Path) -> None:
    belt = paint((60, 40), (0, 10, 5, 15), (20, 40, 5, 15), (55, 60, 5, 15))
    kept, _ = Camera(belt, [0, 30, 60]).run(tmp_path / "kept")
    assert kept["edge"].tolist() == ["top", "", "bottom"]
    table, _ = Camera(belt, [0, 30, 60], keep_cut=False).run(tmp_path / "run")
    assert table["mass"].tolist() == [200] and not labels_of(tmp_path / "run", 0)[:10].any()


@pytest.mark.parametrize(("axis", "direction"), [("rows", "forward"), ("columns", "backward")])
@pytest.mark.parametrize(
    ("mode", "expected", "frames"),
    [
        ("drop", [(20, 40, 300)], [0]),
        ("keep", [(20, 65, 300)], [0]),
        ("split", [(20, 40, 200), (55, 65, 100)], [0, 1]),
    ],
)
def test_stray_parts_of_particles(
    axis: str, direction: str, mode: str, expected: list, frames: list[int], tmp_path: Path
) -> None:
    # One particle in two parts: 200 px in frames 0 and 1, and 100 px in frame 1 alone
    belt = paint((120, 40), (20, 40, 5, 15))
    belt.labels[55:65, 5:15] = 1
    belt.areas[1], belt.masses[1] = 300, 300.0
    camera = Camera(belt, [0, 30, 120], axis=axis, direction=direction, fragments=mode)
    table, _ = camera.run(tmp_path / "run")
    assert list(table[["belt_x0", "belt_x1", "mass"]].itertuples(index=False, name=None)) == expected
    assert table["baseimg"].tolist() == [f"frame_{i}.png" for i in frames]
    last = camera.orientation.to_belt(labels_of(tmp_path / "run", 1))
    assert last[25:35, 5:15].any() == (mode != "drop")
    # 300 px at 2 px/mm are 75 mm2
    assert not len(Camera(belt, [0, 60, 120], min_area_mm2=76, fragments=mode).run(tmp_path / "small")[0])


def test_overlays_show_what_lies_in_each_frame(tmp_path: Path) -> None:
    belt = paint((90, 60), (20, 40, 5, 25))
    camera = Camera(belt, [0, 30, 60, 90], overlays=True)
    plain, camera.read = camera.read, lambda image: np.repeat(plain(image).astype(np.uint8)[..., None], 3, axis=2)
    camera.predict = lambda image: belt.predict(np.ascontiguousarray(image[..., 0]))
    camera.run(tmp_path)
    for number, rows in enumerate((slice(20, 30), slice(0, 10), slice(0, 0))):
        overlay = Image.open(tmp_path / f"overlays/frame_{number}.jpg")
        scale = overlay.height / 30
        drawn = np.asarray(overlay).max(axis=2) > 100
        inside = np.zeros((30, 60), bool)
        inside[rows, 5:25] = True
        inside = np.asarray(Image.fromarray(inside).resize(overlay.size)) > 0
        assert drawn[inside].any() == (number < 2) and scale >= 1
        assert not drawn[:, round(40 * scale) :].any()
