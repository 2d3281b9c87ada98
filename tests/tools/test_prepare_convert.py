"""The command line that converts data sets."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from prepare_data import main

from ramses_d2.data.convert import FORMATS
from tests.tools.command_line import error_of, run_process


def test_there_and_back_as_a_subprocess(tiny_folder, tmp_path):
    folder = tiny_folder()
    arguments = f"convert ramses --input {folder} --to coco --output coco".split()
    done = run_process("prepare_data.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "wrote 2 images, 12 objects (brick 4, concrete 4, glass 4) to coco",
        "  use coco://coco/annotations.json?images=coco/images",
    ]
    main(f"convert coco --input {tmp_path}/coco/annotations.json --output {tmp_path}/back --images link".split())
    before, after = (pd.read_csv(each / "annotations.csv") for each in (folder, tmp_path / "back"))
    pd.testing.assert_frame_equal(before, after, check_exact=True)
    assert (tmp_path / "back/images/img0.png").is_symlink()


def test_label_images(tiny_folder, tmp_path, capsys):
    folder = tiny_folder(count=(3, 0))
    arguments = f"convert labels --input {folder}/labels --image-folder {folder}/images --output {tmp_path}/out".split()
    main([*arguments, "--class", "gravel", "--resolution", "2.5"])
    assert "3 objects (gravel 3)" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out/annotations.csv")
    assert set(table["class"]) == {"gravel"} and set(table["res"]) == {2.5}
    main([*arguments, "--class", "sand", "--to", "coco", "--segmentation", "rle", "--force"])
    content = json.loads((tmp_path / "out/annotations.json").read_text())
    assert all(isinstance(annotation["segmentation"], dict) for annotation in content["annotations"])


def test_open_images_with_its_findings(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    rows = []
    for index in range(7):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / f"images/{index}a.jpg")
        rows.append(f"m.png,{index}a,/m/01\n")
    Image.fromarray(np.ones((20, 30), bool)).save(tmp_path / "m.png")
    (tmp_path / "seg.csv").write_text("MaskPath,ImageID,LabelName\n" + "".join(rows))
    (tmp_path / "names.csv").write_text("/m/01,Person\n")
    boxes = "".join(f"{index}a,/m/01,0\n" * 30 for index in range(7))
    (tmp_path / "boxes.csv").write_text(f"ImageID,LabelName,IsGroupOf\n{boxes}")
    main(
        f"convert open-images --input {tmp_path}/seg.csv --class-names {tmp_path}/names.csv --masks {tmp_path} "
        f"--image-folder {tmp_path}/images --boxes {tmp_path}/boxes.csv --classes Person --images-per-class 6 "
        f"--resolution 1 --output {tmp_path}/out".split()
    )
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  6 images whose masks miss objects that have boxes",
        f"  use ramses://{tmp_path}/out",
        *(f"  image {index}a, class Person, masks 1, boxes 30, group_boxes 0" for index in range(5)),
        "  ... 1 more",
    ]


@pytest.mark.parametrize("source", FORMATS)
def test_help_shows_an_example_that_parses(source, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["convert", source, "--help"])
    assert stop.value.code == 0
    words = capsys.readouterr().out.split("example:")[1].replace("\\\n", " ").split()
    assert words[:3] == ["python", "tools/prepare_data.py", "convert"]
    with pytest.raises(SystemExit, match="^error: .*(no such|is missing|not found)"):  # parsed, and then not there
        main(words[2:])


def test_wrong_arguments_are_one_line(tiny_folder, tmp_path, monkeypatch, capsys):
    arguments = ["convert", "ramses", "--input", str(tiny_folder()), "--output", "out", "--to"]
    for wrong in ([*arguments, "voc"], arguments[:-1]):  # no writer of that format; no format
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith("error:")
    options = {"cwd": tmp_path, "monkeypatch": monkeypatch}
    assert "--resolution" in error_of("prepare_data.py", *arguments, "coco", "--resolution", "0", **options)
    main([*arguments, "coco"])
    assert "--force" in error_of("prepare_data.py", *arguments, "coco", **options)
