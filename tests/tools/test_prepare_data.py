"""The command line that makes data sets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prepare_data import main

ROOT = Path(__file__).parents[2]
SMALL = "--train 2 --valid 1 --size 96 128 --stones 3 6 --diameter 6 9 --workers 1".split()


def test_synth_as_a_subprocess(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "tools/prepare_data.py"),
        "synth",
        "--output",
        str(tmp_path / "demo"),
        *SMALL,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert "wrote 2 + 1 pictures" in done.stdout and "rendering" in done.stderr
    names = sorted(path.name for path in (tmp_path / "demo").iterdir())
    assert names == [
        *("annotations.csv", "classes.json", "images", "labels"),
        *("metadata.json", "split.json", "synthetic.json"),
    ]
    assert len(list((tmp_path / "demo/images").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--classes", "Ra", "gold"], "error: unknown material 'gold'", ""),
        (["--resolution", "0", "2"], "error: resolution 0.0 2.0", ""),
        (["--train", "many"], 2, "invalid int value: 'many'"),
        (["--colour"], 2, "unrecognized arguments: --colour"),
    ],
)
def test_bad_arguments_get_one_line_and_leave_nothing(tmp_path, capsys, arguments, status, words):
    with pytest.raises(SystemExit) as stop:
        main(["synth", "--output", str(tmp_path / "demo"), *arguments])
    if isinstance(status, int):
        message = capsys.readouterr().err
        assert stop.value.code == status and words in message
    else:
        message = stop.value.code
        assert message.startswith(status)
    assert len(message.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_existing_data_set_needs_force(tmp_path, capsys):
    arguments = ["synth", "--output", str(tmp_path / "demo"), *SMALL]
    main(arguments)
    with pytest.raises(SystemExit, match="--force"):
        main(arguments)
    main([*arguments, "--force"])


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["synth", "--help"])
    assert stop.value.code == 0
    assert "example: python tools/prepare_data.py synth --output datasets/demo" in capsys.readouterr().out


def test_a_command_is_required(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
