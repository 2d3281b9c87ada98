"""The command line that makes data sets: synth, and what all commands have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
from prepare_data import main

from tests.tools.command_line import run_process

SMALL = "--train 2 --valid 1 --size 96 128 --stones 3 6 --diameter 6 9 --workers 1".split()


def test_synth_as_a_process(tmp_path: Path) -> None:
    done = run_process("prepare_data.py", "synth", "--output", "demo", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "wrote 2 + 1 images" in done.stdout and "rendering" in done.stderr
    names = sorted(path.name for path in (tmp_path / "demo").iterdir())
    assert names == [
        *("annotations.csv", "classes.json", "images", "labels"),
        *("metadata.json", "split.json", "synthetic.json"),
    ]
    assert len(list((tmp_path / "demo/images").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--classes", "Ra", "gold"], 1, "unknown material 'gold'"),
        (["--resolution", "0", "2"], 1, "resolution 0.0 2.0"),
        (["--train", "many"], 2, "invalid int value: 'many'"),
        (["--colour"], 2, "unrecognized arguments: --colour"),
    ],
)
def test_bad_arguments_get_one_line_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, words: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["synth", "--output", str(tmp_path / "demo"), *arguments])
    message = capsys.readouterr().err if status == 2 else stop.value.code
    assert (stop.value.code == 2) == (status == 2)
    assert message.startswith("error: ") and words in message and len(message.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_existing_data_set_needs_force(tmp_path: Path) -> None:
    arguments = ["synth", "--output", str(tmp_path / "demo"), *SMALL]
    main(arguments)
    with pytest.raises(SystemExit, match="--force"):
        main(arguments)
    main([*arguments, "--force"])


@pytest.mark.parametrize("command", ["synth --output datasets/demo", "split datasets/mine", "masses"])
def test_help_shows_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command.split()[0], "--help"])
    assert stop.value.code == 0 and f"example: python tools/prepare_data.py {command}" in capsys.readouterr().out


def test_a_command_is_required() -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
