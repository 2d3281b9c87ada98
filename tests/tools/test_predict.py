"""The prediction command line, as users call it."""

from __future__ import annotations

import hashlib
import json
import runpy
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
    model = build_model(load_config(TINY_YAML))
    path = tmp_path / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    return str(path)


def test_folder(tiny_folder: Callable[..., Path], weights: str, tmp_path: Path) -> None:
    folder = tiny_folder()
    arguments = ["--weights", weights, "--input", str(folder / "images"), "--resolution", "2", "--score-threshold", "0"]
    result = predict(*arguments, "--output", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(tmp_path / "out/annotations.csv")
    assert list(table.columns) == COLUMNS
    assert set(table["baseimg"]) == {"img0.png", "img1.png"} and (table["mass"] > 0).all() and (table["res"] == 2).all()
    for name, rows in table.groupby("baseimg"):
        labels = np.asarray(Image.open(tmp_path / "out/labels" / name))
        assert labels.shape == np.asarray(Image.open(folder / "images" / name)).shape[:2] and labels.dtype == np.uint16
        assert sorted(rows["label"]) == [label for label in np.unique(labels) if label]
        for row in rows.itertuples():
            seen_rows, seen_cols = np.nonzero(labels == row.label)
            assert (row.x0, row.x1, row.y0, row.y1) == (
                seen_rows.min(), seen_rows.max() + 1, seen_cols.min(), seen_cols.max() + 1,
            )  # fmt: skip
            assert row.area == len(seen_rows)
        assert (tmp_path / "out/overlays" / Path(name).with_suffix(".jpg")).is_file()
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["complete"] and record["settings"]["options"]["score_threshold"] == 0
    assert record["settings"]["weights_sha256"] == hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    # The same command again, after a kill before the second image was done
    (tmp_path / "out/pictures/img1.json").unlink()
    (tmp_path / "out/annotations.csv").unlink()
    again = predict(*arguments, "--output", "out", "--batch-size", "2", cwd=tmp_path)
    assert again.returncode == 0 and "1 of 2 images are done already" in again.stderr
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out/annotations.csv"), table)
    # A corrected resolution is no old result
    arguments[arguments.index("2")] = "4"
    corrected = predict(*arguments, "--output", "out", cwd=tmp_path)
    assert corrected.returncode == 0 and "done already" not in corrected.stderr
    assert (pd.read_csv(tmp_path / "out/annotations.csv")["res"] == 4).all()


def test_an_existing_output_is_not_replaced_unasked(
    tiny_folder: Callable[..., Path], weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        "--config-file",
        TINY_YAML,
        "--weights",
        weights,
        "--input",
        str(tiny_folder() / "images"),
        "--output",
        "out",
    ]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious.txt").write_text("mine")
    message = error_of("predict.py", *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
    assert "out exists" in message and "--force" in message
    message = error_of("predict.py", *arguments, "--force", cwd=tmp_path, monkeypatch=monkeypatch)
    assert "not replaced" in message  # not a folder of predictions: not even with --force
    assert (tmp_path / "out/precious.txt").read_text() == "mine"


def test_uri_resolution_empty_results_force_and_a_broken_image(
    tiny_folder: Callable[..., Path], weights: str, tmp_path: Path
) -> None:
    folder = tiny_folder(resolution=3.0)
    common = ["--weights", weights, "--output", "out"]
    result = predict(*common, "--input", f"ramses://{folder}", "--score-threshold", "0", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (pd.read_csv(tmp_path / "out/annotations.csv")["res"] == 3).all()
    (folder / "images/broken.jpg").write_bytes(b"not a picture")
    Image.new("RGB", (1000, 1)).save(folder / "images/line.png")
    result = predict(*common, "--force", "--input", str(folder / "images"), "--score-threshold", "0.99", cwd=tmp_path)
    assert result.returncode == 1 and "broken.jpg" in result.stderr
    assert "line.png: the image of 1 x 1000 px" in result.stderr and "Traceback" not in result.stderr
    assert len(pd.read_csv(tmp_path / "out/annotations.csv")) == 0
    assert len(list((tmp_path / "out/labels").iterdir())) == 2


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
    assert record["settings"]["options"]["stream"]["overlap"] == 4
    assert record["settings"]["options"]["stream"]["frames"] == [
        str(tmp_path / "belt" / name) for name in ("frame_2.png", "frame_1.png")
    ]
    second = table[table["baseimg"] == "frame_1.png"]
    assert (second["belt_x0"] - second["x0"] == record["pictures"][0]["height"] - 4).all()
    assert {path.name for path in (tmp_path / "out/labels").iterdir()} == {"frame_1.png", "frame_2.png"}

    too_much = ["--config-file", TINY_YAML, *common, "--output", "other", "--overlap", "500"]
    message = error_of("predict.py", *too_much, cwd=tmp_path, monkeypatch=monkeypatch)
    assert "frame_2.png" in message and "overlap by 500 px" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--input": "nowhere"}, "nowhere"),
        ({"--weights": "nosuch.pth"}, "nosuch.pth"),
        ({"--resolution": "0"}, "--resolution 0"),
        ({"--resolution": "nan"}, "--resolution nan"),
        ({"--input": "broken.jpg"}, "none of the 1 images"),
        ({"--input": "broken.jpg", "--stream": ""}, "none of the 1 images"),
        ({"--overlap": "20"}, "--overlap is for conveyor belts: add --stream"),
        ({"--order": "order.txt", "--stream": ""}, "img7.png is none of the images"),
        ({"--order": "none.txt", "--stream": ""}, "none.txt: not readable"),
        ({"--min-area-mm2": "nan"}, "--min-area-mm2 nan"),
        ({"--min-area-mm2": "2", "--resolution": ""}, "needs the resolution"),
        ({"--batch-size": "2", "--stream": ""}, "--batch-size is not for conveyor belts"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    tiny_folder: Callable[..., Path],
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    message: str,
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    (tmp_path / "order.txt").write_text("# belt 3\nimg1\nimg7.png\n")
    options = {
        "--config-file": TINY_YAML,
        "--weights": weights,
        "--input": str(tiny_folder() / "images"),
        "--resolution": "2",
        "--output": "out",
    } | change
    if not options["--resolution"]:
        options.pop("--resolution")
    arguments = [word for pair in options.items() for word in pair if word]
    assert message in error_of("predict.py", *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_weights_that_do_not_fit_are_named(
    tiny_folder: Callable[..., Path], weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        "--config-file",
        TINY_YAML,
        "--weights",
        weights,
        "--input",
        str(tiny_folder() / "images"),
        "--output",
        "out",
    ]
    message = error_of("predict.py", *arguments, "MODEL.RAMSES.NUM_CLASSES", "4", cwd=tmp_path, monkeypatch=monkeypatch)
    assert "does not fit this config" in message


def test_help_has_an_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["predict.py", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "tools/predict.py"), run_name="__main__")
    assert "python tools/predict.py --config-file" in capsys.readouterr().out
