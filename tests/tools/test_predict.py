"""The prediction command line, as users call it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from ramses_d2.analysis.particles import COLUMNS
from ramses_d2.config import load_config
from tests.tools.command_line import ROOT, error_of, run_process

TINY_YAML = str(ROOT / "tests/ramses_tiny.yaml")
predict = partial(run_process, "predict.py", "--config-file", TINY_YAML)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A network that finds something everywhere."""
    torch.manual_seed(0)
    path = tmp_path / "model.pth"
    torch.save({"model": build_model(load_config(TINY_YAML)).state_dict()}, path)
    return str(path)


def test_folder(tiny_folder: Callable[..., Path], weights: str, tmp_path: Path) -> None:
    images, out = tiny_folder() / "images", tmp_path / "out"
    arguments = ["--weights", weights, "--input", str(images), "--resolution", "2", "--score-threshold", "0"]
    result = predict(*arguments, "--output", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(out / "annotations.csv")
    assert f"{len(table)} particles" in result.stdout and "in 2 images" in result.stdout
    assert list(table.columns) == COLUMNS
    assert set(table["baseimg"]) == {"img0.png", "img1.png"} and (table["mass"] > 0).all() and (table["res"] == 2).all()
    for name, rows in table.groupby("baseimg"):
        labels = np.asarray(Image.open(out / "labels" / name))
        assert labels.shape == np.asarray(Image.open(images / name)).shape[:2] and labels.dtype == np.uint16
        assert sorted(rows["label"]) == [label for label in np.unique(labels) if label]
        for row in rows.itertuples():
            ys, xs = np.nonzero(labels == row.label)
            assert (row.x0, row.x1, row.y0, row.y1) == (*(ys.min(), ys.max() + 1, xs.min(), xs.max() + 1),)
            assert row.area == len(ys)
        assert (out / "overlays" / Path(name).with_suffix(".jpg")).is_file()
    record = json.loads((out / "run.json").read_text())
    assert record["complete"] and record["settings"]["options"]["score_threshold"] == 0
    assert record["settings"]["weights_sha256"] == hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    # The same command again, after a kill before the second image was done
    (out / "pictures/img1.json").unlink()
    (out / "annotations.csv").unlink()
    again = predict(*arguments, "--output", "out", "--batch-size", "2", cwd=tmp_path)
    assert again.returncode == 0 and "1 of 2 images are done already" in again.stderr
    pd.testing.assert_frame_equal(pd.read_csv(out / "annotations.csv"), table)
    # A corrected resolution is no old result
    arguments[arguments.index("2")] = "4"
    corrected = predict(*arguments, "--output", "out", cwd=tmp_path)
    assert corrected.returncode == 0 and "done already" not in corrected.stderr
    assert (pd.read_csv(out / "annotations.csv")["res"] == 4).all()


def test_uri_resolution_empty_results_force_and_a_broken_image(
    tiny_folder: Callable[..., Path], weights: str, tmp_path: Path
) -> None:
    folder, out = tiny_folder(resolution=3.0), tmp_path / "out"
    common = ["--weights", weights, "--output", "out"]
    result = predict(*common, "--input", f"ramses://{folder}", "--score-threshold", "0", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (pd.read_csv(out / "annotations.csv")["res"] == 3).all()
    (folder / "images/broken.jpg").write_bytes(b"not a picture")
    Image.new("RGB", (1000, 1)).save(folder / "images/line.png")
    result = predict(*common, "--force", "--input", str(folder / "images"), "--score-threshold", "0.99", cwd=tmp_path)
    assert result.returncode == 1 and "broken.jpg" in result.stderr and "no particles" in result.stdout
    assert "line.png: the image of 1 x 1000 px" in result.stderr and "Traceback" not in result.stderr
    assert len(pd.read_csv(out / "annotations.csv")) == 0
    assert len(list((out / "labels").iterdir())) == 2
    failed = {Path(one["path"]).name for one in json.loads((out / "run.json").read_text())["failed"]}
    assert failed == {"broken.jpg", "line.png"}


def test_a_belt(
    tiny_folder: Callable[..., Path], weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = (tiny_folder() / "images/img0.png").read_bytes()
    (tmp_path / "belt").mkdir()
    for number in (1, 2, 4):
        (tmp_path / f"belt/frame_{number}.png").write_bytes(image)
    (tmp_path / "order.txt").write_text("frame_2.png\nframe_1\n")
    common = ["--weights", weights, "--input", "belt", "--resolution", "2", "--score-threshold", "0", "--stream"]
    result = predict(*common, "--output", "out", "--overlap", "4", "--order", "order.txt", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "does not continue" not in result.stderr  # two names tell no step but 1, up or down
    table = pd.read_csv(tmp_path / "out/annotations.csv").set_index("particle").sort_index()
    assert list(table.index) == list(range(1, len(table) + 1)) and len(table) > 0
    record = json.loads((tmp_path / "out/run.json").read_text())
    options = record["settings"]["options"]["stream"]
    assert options["overlap"] == 4 and options["resolutions"] == [2]
    assert options["frames"] == [str(tmp_path / "belt" / name) for name in ("frame_2.png", "frame_1.png")]
    second = table[table["baseimg"] == "frame_1.png"]
    assert (second["belt_x0"] - second["x0"] == record["pictures"][0]["height"] - 4).all()
    assert {path.name for path in (tmp_path / "out/labels").iterdir()} == {"frame_1.png", "frame_2.png"}

    too_much = ["--config-file", TINY_YAML, *common, "--output", "other", "--overlap", "500"]
    message = error_of("predict.py", *too_much, cwd=tmp_path, monkeypatch=monkeypatch)
    assert "frame_2.png" in message and "overlap by 500 px" in message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"--input": "nowhere"}, "nowhere"),
        ({"--weights": "nosuch.pth"}, "nosuch.pth"),
        ({"MODEL.RAMSES.NUM_CLASSES": "4"}, "does not fit this config"),
        ({"--resolution": "0"}, "--resolution 0"),
        ({"--resolution": "nan"}, "--resolution nan"),
        ({"--score-threshold": "1.01"}, "--score-threshold 1.01"),
        ({"--batch-size": "0"}, "--batch-size 0"),
        ({"--min-area": "-1"}, "--min-area -1"),
        ({"--min-area-mm2": "nan"}, "--min-area-mm2 nan"),
        ({"--min-area-mm2": "2", "--resolution": ""}, "needs the resolution"),
        ({"--input": "broken.jpg"}, "cannot read the only image"),
        ({"--input": "broken.jpg", "--stream": ""}, "cannot read the only image"),
        ({"--overlap": "20"}, "--overlap is for conveyor belts: add --stream"),
        ({"--cut-particles": "drop"}, "--cut-particles is for conveyor belts: add --stream"),
        ({"--order": "order.txt", "--stream": ""}, "img7.png is none of the images"),
        ({"--order": "none.txt", "--stream": ""}, "none.txt: not readable"),
        ({"--batch-size": "2", "--stream": ""}, "--batch-size is not for conveyor belts"),
        ({"--resolution": "two.csv", "--stream": ""}, "one resolution, these have 2"),
        ({"--output": "mine"}, "--force"),
        ({"--output": "mine", "--force": ""}, "not replaced"),  # not a folder of predictions: not even with --force
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    tiny_folder: Callable[..., Path],
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    named: str,
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    (tmp_path / "order.txt").write_text("# belt 3\nimg1\nimg7.png\n")
    (tmp_path / "two.csv").write_text("file_name,res\nimg0.png,2\nimg1.png,3\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious.txt").write_text("mine")
    images = str(tiny_folder() / "images")
    options = {"--config-file": TINY_YAML, "--weights": weights, "--input": images, "--resolution": "2"}
    options |= {"--output": "out"} | change
    if not options["--resolution"]:
        options.pop("--resolution")
    arguments = [word for pair in options.items() for word in pair if word]
    assert named in error_of("predict.py", *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["precious.txt"]


def test_help_has_an_example() -> None:
    result = run_process("predict.py", "--help", cwd=ROOT)
    assert result.returncode == 0 and "python tools/predict.py --config-file" in result.stdout
