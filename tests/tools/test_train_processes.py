"""train_net.py with several processes and machines without CUDA, as users call it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests.tools.command_line import ROOT, run_process


def arguments(folder: Path, *options: str, processes: int = 2) -> list[str]:
    uri = f"('ramses://{folder}',)"
    return [
        *("--config-file", str(ROOT / "tests/ramses_tiny.yaml"), "--num-gpus", "0", "--num-processes", str(processes)),
        *(*options, "DATASETS.TRAIN", uri, "DATASETS.TEST", uri, "OUTPUT_DIR", "out"),
    ]


def start(cwd: Path, *options: str) -> subprocess.Popen:
    cwd.mkdir(exist_ok=True)
    command = [sys.executable, str(ROOT / "tools/train_net.py"), *options]
    with (cwd / "printed.txt").open("w") as stream:  # a pipe that nobody reads would fill up
        return subprocess.Popen(command, cwd=cwd, stdout=stream, stderr=subprocess.STDOUT)


def runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def steps(out: Path) -> list[int]:
    return [json.loads(line)["iteration"] for line in (out / "metrics.json").read_text().splitlines()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_then_two_machines(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    """The second machine has neither the checkpoint nor the folder it is in."""
    folder = tiny_folder(sizes=[(64, 96)] * 3)
    result = run_process("train_net.py", *arguments(folder), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "World size: 2" in result.stdout and "Rank of current process: 1" not in result.stdout
    out = tmp_path / "out"
    assert len(list(out.glob("events.out.*"))) == 1
    assert json.loads((out / "evaluation.json").read_text())["results"]
    assert torch.load(out / "model_final.pth")["iteration"] == 3
    assert steps(out) == sorted(set(steps(out)))

    together = ("--num-machines", "2", "--dist-url", f"tcp://127.0.0.1:{free_port()}", "--resume", "--machine-rank")
    machines = [
        start(tmp_path / where, *arguments(folder, *together, str(rank), processes=1), "SOLVER.MAX_ITER", "6")
        for rank, where in enumerate((".", "elsewhere"))
    ]
    statuses = [machine.wait(timeout=600) for machine in machines]
    logs = [(tmp_path / where / "printed.txt").read_text() for where in (".", "elsewhere")]
    assert statuses == [0, 0], logs
    assert "Continuing from out/model_final.pth" in logs[0]
    assert torch.load(out / "model_final.pth")["iteration"] == 5
    elsewhere = tmp_path / "elsewhere/out"
    assert "Continuing from out/model_final.pth" in (elsewhere / "log.txt.rank1").read_text()
    assert not list(elsewhere.glob("*.pth")) and not (elsewhere / "metrics.json").exists()
    assert steps(out) == sorted(set(steps(out)))


def test_a_broken_image_on_one_process_is_the_one_line_of_all(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_folder(sizes=[(64, 96)] * 3)
    image = folder / "images/img1.png"
    image.write_bytes(image.read_bytes()[:700])
    result = run_process("train_net.py", *arguments(folder), "SOLVER.MAX_ITER", "50", cwd=tmp_path)
    assert result.returncode == 1
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert "img1.png" in line
    assert "Traceback" not in result.stdout + result.stderr


def test_a_stopped_training_leaves_no_process(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_folder(sizes=[(64, 96)] * 3)
    process = start(tmp_path, *arguments(folder), "SOLVER.MAX_ITER", "100000")
    deadline = time.monotonic() + 300
    while not (tmp_path / "out/last_checkpoint").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(ranks) >= 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    output = (tmp_path / "printed.txt").read_text()
    assert output.count("stopped by SIGTERM") == 1 and "Traceback" not in output
    deadline = time.monotonic() + 30
    while any(map(runs, ranks)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(runs, ranks))
