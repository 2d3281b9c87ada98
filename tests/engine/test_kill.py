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
from pathlib import Path

import torch

from tests.engine.conftest import ROOT, TINY_YAML, assert_same

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


def start(folder: Path, output: Path, *options: str, wrapper: tuple[str, ...] = ()) -> subprocess.Popen:
    uri = f"('ramses://{folder}',)"
    command = [
        *(sys.executable, *wrapper, str(ROOT / "tools/train_net.py"), "--config-file", TINY_YAML, *options),
        *("DATASETS.TRAIN", uri, "DATASETS.TEST", uri, "OUTPUT_DIR", str(output), "SEED", "7"),
        *("SOLVER.MAX_ITER", str(STEPS), "SOLVER.CHECKPOINT_PERIOD", "1", "TEST.EVAL_PERIOD", "5"),
        *("MODEL.CONVNEXTV2.DROP_PATH", "0.3", "SOLVER.EMA_DECAY", "0.9"),
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


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


def metrics(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def evaluations(output: Path) -> list[tuple[int, dict[str, float]]]:
    return [
        (line["iteration"], {name: value for name, value in line.items() if name.startswith(("segm/", "ema/"))})
        for line in metrics(output)
        if "segm/AP" in line
    ]


def test_five_kills_change_nothing(folder: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(folder, whole)
    draw = random.Random(0)
    options: tuple[str, ...] = ()
    for kill in range(5):
        if kill == 2:
            writing = start(folder, killed, *options, wrapper=("-c", KILLED_WHILE_WRITING))
            writing.communicate(timeout=300)
            assert writing.returncode == -signal.SIGKILL and list(killed.glob("model_*.pth.unfinished*"))
        else:
            kill_after(start(folder, killed, *options), killed, last_step(killed) + 1, draw.uniform(0, 0.1))
        options = ("--resume",)
    for process in (start(folder, killed, *options), undisturbed):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()

    for name in ("model_final.pth", "model_final_ema.pth", "model_best.pth"):
        assert_same(*(dict(torch.load(output / name, weights_only=True)["model"]) for output in (whole, killed)), name)
    for name in ("evaluation.json", "valid_stats.tsv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert not list(killed.glob("*.unfinished*"))

    # An evaluation that a kill cut off is done again: its line may be there twice, with the same numbers
    assert dict(evaluations(killed)) == dict(evaluations(whole))
    assert [step for step, _ in evaluations(whole)] == [4, 9, 14, STEPS]
    trained = Counter(line["iteration"] for line in metrics(killed) if "total_loss" in line)
    assert max(trained.values()) == 1 and STEPS - 1 in trained
