"""A training that is killed again and again ends with the weights of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
STEPS = 16

# train_net.py with one change: as a checkpoint is flushed, half of its file is lost and the process is gone
KILLED_WHILE_WRITING = """
import os, runpy, signal, sys
flush, calls = os.fsync, []
def cut_and_kill(descriptor):
    calls.append(os.fstat(descriptor).st_size)
    if calls[-1] > 10_000:
        os.ftruncate(descriptor, calls[-1] // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    flush(descriptor)
os.fsync = cut_and_kill
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def command(folder: Path, output: Path, *options: str) -> list[str]:
    uri = f"('ramses://{folder}',)"
    return [
        *(str(ROOT / "tools/train_net.py"), "--config-file", str(ROOT / "tests/ramses_tiny.yaml"), *options),
        *("DATASETS.TRAIN", uri, "DATASETS.TEST", uri, "OUTPUT_DIR", str(output), "SEED", "7"),
        *("SOLVER.MAX_ITER", str(STEPS), "SOLVER.CHECKPOINT_PERIOD", "1", "TEST.EVAL_PERIOD", "5"),
        *("MODEL.CONVNEXTV2.DROP_PATH", "0.3", "SOLVER.EMA_DECAY", "0.9"),
    ]


def start(*arguments: str) -> subprocess.Popen:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *arguments], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def last_step(output: Path) -> int:
    return max((int(path.stem[-7:]) for path in output.glob("model_0*.pth")), default=-1)


def kill_after(process: subprocess.Popen, output: Path, step: int, delay: float) -> None:
    """SIGKILL some time after a step has been saved."""
    deadline = time.monotonic() + 300
    while last_step(output) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"


def evaluations(output: Path) -> list[tuple[int, dict[str, float]]]:
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return [
        (line["iteration"], {name: value for name, value in line.items() if name.startswith(("segm/", "ema/"))})
        for line in lines
        if "segm/AP" in line
    ]


def test_five_kills_change_nothing(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_folder(sizes=[(64, 96)] * 3 + [(96, 64)] * 2, count=[4, 6, 0, 5, 3])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(*command(folder, whole))

    draw = random.Random(0)
    options: tuple[str, ...] = ()
    for kill in range(5):
        if kill == 2:
            writing = start("-c", KILLED_WHILE_WRITING, *command(folder, killed, *options))
            writing.communicate(timeout=300)
            assert writing.returncode == -signal.SIGKILL
            assert list(killed.glob("model_*.pth.unfinished*"))
        else:
            process = start(*command(folder, killed, *options))
            kill_after(process, killed, last_step(killed) + 1, draw.uniform(0, 0.1))
        options = ("--resume",)
    resumed = start(*command(folder, killed, *options))
    _, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors.decode()
    _, errors = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, errors.decode()

    for name in ("model_final.pth", "model_final_ema.pth", "model_best.pth"):
        a, b = (torch.load(output / name, weights_only=True) for output in (whole, killed))
        assert a["model"].keys() == b["model"].keys()
        assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"]), name
    assert (killed / "evaluation.json").read_bytes() == (whole / "evaluation.json").read_bytes()
    assert not list(killed.glob("*.unfinished"))

    # An evaluation that a kill cut off is done again: its line may be there twice, with the same figures
    assert dict(evaluations(killed)) == dict(evaluations(whole))
    assert [step for step, _ in evaluations(whole)] == [4, 9, 14, STEPS]
    lines = [json.loads(line) for line in (killed / "metrics.json").read_text().splitlines()]
    trained = Counter(line["iteration"] for line in lines if "total_loss" in line)
    assert max(trained.values()) == 1 and STEPS - 1 in trained
