"""The command line that makes data sets."""

from __future__ import annotations

from pathlib import Path

import pytest
from prepare_data import main

from tests.tools.command_line import run_process

SMALL = "--train 2 --valid 1 --size 96 128 --stones 3 6 --diameter 6 9 --workers 1".split()
FILES = ["annotations.csv", "classes.json", "images", "labels", "metadata.json", "split.json", "synthetic.json"]


def test_synth_as_a_process_and_again_with_force(tmp_path: Path) -> None:
    done = run_process("prepare_data.py", "synth", "--output", "demo", *SMALL, cwd=tmp_path)
    assert done.returncode == 0 and "wrote 2 + 1 images" in done.stdout and "rendering" in done.stderr, done.stderr
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == FILES
    assert len(list((tmp_path / "demo/images").iterdir())) == 3
    arguments = ["synth", "--output", str(tmp_path / "demo"), *SMALL, "--seed", "2"]
    before = (tmp_path / "demo/annotations.csv").read_bytes()
    with pytest.raises(SystemExit, match="--force"):
        main(arguments)
    main([*arguments, "--force"])
    assert (tmp_path / "demo/annotations.csv").read_bytes() != before


def test_a_belt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--size", "64", "128", "--stones", "5", "7", "--diameter", "6", "9", "--resolution", "2", "2"]
    main(["synth", "--output", str(tmp_path / "belt"), *size, "--belt", "3", "--overlap", "10"])
    assert "a belt of 3 frames" in capsys.readouterr().out and (tmp_path / "belt/belt.csv").is_file()
    assert len(list((tmp_path / "belt/labels").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--classes", "Ra", "gold"], 1, "error: classes Ra gold"),
        (["--resolution", "0", "2"], 1, "error: resolution 0.0 2.0"),
        (["--overlap", "4"], 1, "error: --overlap"),
        (["--train", "many"], 2, "error: argument --train: invalid int value: 'many'"),
        (["--colour"], 2, "error: unrecognized arguments: --colour"),
    ],
)
def test_bad_arguments_get_one_line_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, words: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["synth", "--output", str(tmp_path / "demo"), *arguments])
    # A text instead of a number means status 1, see sys.exit
    message = capsys.readouterr().err if status == 2 else stop.value.code
    assert isinstance(stop.value.code, str) or stop.value.code == status
    assert message.startswith(words) and len(message.strip().splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        *(
            ([name, "--help"], 0, f"example: python tools/prepare_data.py {name}")
            for name in ("synth", "split", "masses")
        ),
        ([], 2, ""),
    ],
)
def test_help_and_a_missing_command(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, words: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == status and words in capsys.readouterr().out
