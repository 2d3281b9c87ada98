"""prepare_data.py split, as users call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from prepare_data import main

from ramses_d2.data.splits import load_split
from tests.conftest import write_json
from tests.tools.command_line import error_of, run_process

Folder = Callable[..., Path]


@pytest.fixture
def folder(tiny_folder: Folder) -> Path:
    """Ten images, the last without particles; five batches of two; only the first has glass."""
    folder = tiny_folder(sizes=((48, 72),) * 10, count=[3, *[2] * 8, 0])
    names = [f"img{index}.png" for index in range(10)]
    return write_batches(folder, *(names[index : index + 2] for index in range(0, 10, 2)))


def write_batches(folder: Path, *batches: list[str]) -> Path:
    content = {"images": [{"file_name": "img9.png", "res": 2}]}
    write_json(folder / "metadata.json", content | {"batches": [{"image_names": b, "mass": {}} for b in batches]})
    return folder


def subsets(path: Path) -> dict[str, list[str]]:
    return json.loads(path.read_text())["subsets"]


def batch_numbers(names: list[str]) -> set[int]:
    return {int(name.rpartition("img")[2]) // 2 for name in names}


def test_as_a_process_with_defaults(folder: Path) -> None:
    result = run_process("prepare_data.py", "split", "demo", "--output", "demo/split.json", cwd=folder.parent)
    assert result.returncode == 0, result.stderr
    split = subsets(folder / "split.json")
    assert (len(split["train"]), len(split["valid"])) == (8, 2)  # a fifth, with the empty image
    assert not batch_numbers(split["train"]) & batch_numbers(split["valid"])
    assert "train: 8 images, 8 different, 4 groups by batch" in result.stdout
    assert "glass" in next(line for line in result.stdout.splitlines() if line.startswith("warning: valid"))
    assert "wrote demo/split.json: use ramses://demo/split.json#train, ramses://demo/split.json#valid" in result.stdout
    dataset_dicts, class_names = load_split(folder / "split.json", "train")
    assert [each["image_name"] for each in dataset_dicts] == split["train"]
    assert class_names == ["brick", "concrete", "glass"]


def test_choices(folder: Path, tiny_folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    other = tiny_folder("other", sizes=((48, 72),) * 4, count=5, resolution=(2.0, 2.0, 1.0, 2.0), nan_masses=True)
    output = folder / "s.json"
    common = ["split", str(folder), str(other), "--output", str(output), "--force"]

    main([*common, "--folds", "2", "--group-by", "none", "--seed", "3"])
    folds = subsets(output)
    assert list(folds) == ["fold0-train", "fold0-valid", "fold1-train", "fold1-valid"]
    assert sorted(folds["fold0-valid"] + folds["fold1-valid"]) == sorted(folds["fold0-train"] + folds["fold0-valid"])

    main([*common, "--min-instances", "3", "--min-resolution", "1.5", "--valid", "0.25", "--no-stratify"])
    listed = [name for names in subsets(output).values() for name in names]
    assert sorted(listed) == ["demo/img0", "other/img0", "other/img1", "other/img3"]
    out = capsys.readouterr().out
    assert "left out: 1 images (resolution below 1.5 px/mm)" in out
    assert "left out: 8 images (fewer than 3 particles)" in out

    main([*common, "--with-masses", "--exclude", "glass", "--max-instances", "2", "--group-by", "regex:img."])
    listed = [name for names in subsets(output).values() for name in names]
    assert sorted(listed) == [f"demo/img{index}" for index in range(1, 9)]
    assert json.loads(output.read_text())["classes"] == ["brick", "concrete"]

    main([*common, "--max-per-class", "9", "--max-reuse", "3"])
    out = capsys.readouterr().out
    trained = next(line.split()[1:] for line in out.splitlines() if line.startswith("brick"))
    assert int(trained[-2]) <= 9


def test_one_batch_alone_is_no_reason_to_stop(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_batches(folder, [f"img{index}.png" for index in range(10)])
    main(["split", str(folder), "--output", str(folder / "split.json")])
    assert "fewer than 2 batches" in caplog.text and len(subsets(folder / "split.json")["valid"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["demo", "demo"], "name each of them once"),
        (["demo", "--valid", "1.5"], "between 0 and 1"),
        (["demo", "--folds", "1"], "1 folds"),
        (["demo", "--folds", "11", "--group-by", "none"], "10 images in 10 groups cannot be divided into 11"),
        (["demo", "--group-by", "batch", "--folds", "6"], "10 images in 5 groups"),
        (["demo", "--group-by", "colour"], "group by colour"),
        (["demo", "--exclude", "galss"], "excluded class galss is not in the annotations"),
        (["demo", "--min-resolution", "99"], "none of 10 images can be used"),
        (["demo", "--seed", "-1"], "seed -1"),
        (["demo", "--input-shape", "0", "9"], "input shape (0, 9)"),
        (["demo", "--max-per-class", "0", "--min-instances", "1"], "0 particles per class: each of"),
    ],
)
def test_errors(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    command = ["split", *arguments, "--output", "split.json"]
    assert words in error_of("prepare_data.py", *command, cwd=tmp_path, monkeypatch=monkeypatch)
    assert not (tmp_path / "split.json").exists()


def test_an_existing_file_needs_force(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "split.json").write_text('{"mine": 1}')
    command = ["split", "demo", "--output", "split.json"]
    assert "--force" in error_of("prepare_data.py", *command, cwd=tmp_path, monkeypatch=monkeypatch)
    command.append("--force")
    assert "not a split file" in error_of("prepare_data.py", *command, cwd=tmp_path, monkeypatch=monkeypatch)
    assert (tmp_path / "split.json").read_text() == '{"mine": 1}'
