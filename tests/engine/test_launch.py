"""Several processes without CUDA: they agree, they share evaluations, and they end together."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from ramses_d2.engine.launch import argument_parser, distributed, launch, lost_connection, process_count, run_process
from ramses_d2.engine.trainer import RamsesTrainer
from ramses_d2.errors import RamsesError
from tests.engine.conftest import ROOT, tiny_config
from tests.modeling.conftest import blocks, training_item


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def arguments(*options: str) -> argparse.Namespace:
    return argument_parser("").parse_args(["--num-gpus", "0", *options])


def items() -> list[dict]:
    return [training_item(blocks(16, 24, count), seed=count) for count in (5, 3)]


def network(folder: Path, output: Path, test: Path) -> tuple[torch.nn.Module, object]:
    """The same random network in every process, with scores high enough to find things."""
    cfg = tiny_config(folder, output, "MODEL.RAMSES.TEST.SCORE_THRESH", 0.0, test=[test])
    torch.manual_seed(3)
    return RamsesTrainer.build_model(cfg), cfg


def gradients(model: torch.nn.Module, batch: list[dict]) -> dict[str, torch.Tensor]:
    with EventStorage():
        sum(model(batch).values()).backward()
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}


def work(args: argparse.Namespace) -> None:
    """What a rank of a training does: share gradients, evaluate three images, evaluate one."""
    rank = comm.get_rank()
    assert (comm.get_world_size(), comm.get_local_rank(), comm.get_local_size()) == (2, rank, 2)
    assert args.opts[-2:] == ["MODEL.DEVICE", "cpu"]
    folder = Path(args.folder)
    for name in ("three", "one"):
        model, cfg = network(folder / "three", folder / f"two_ranks_{name}", folder / name)
        results = RamsesTrainer.test(cfg, model)
        assert bool(results) == (rank == 0)
    wrapped = distributed(model.train())
    torch.manual_seed(0)
    found = gradients(wrapped, items()[rank : rank + 1])
    torch.save((found, torch.get_num_threads()), folder / f"rank{rank}.pth")


def test_two_ranks_do_the_work_of_one(
    tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_folder(name="three", sizes=[(64, 96), (96, 64), (64, 96)], count=[4, 6, 3])
    tiny_folder(name="one", sizes=[(64, 96)], count=4)
    args = arguments("--num-processes", "2")
    args.folder = str(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launch(work, args)

    (first, threads), (second, _) = (torch.load(tmp_path / f"rank{rank}.pth") for rank in range(2))
    assert threads == max(1, len(os.sched_getaffinity(0)) // 2)
    torch.set_num_threads(threads)  # the order of sums depends on it
    model, _ = network(tmp_path / "three", tmp_path / "one_rank", tmp_path / "three")
    alone = gradients(model.train(), items())
    assert first.keys() == alone.keys() and len(alone) > 50
    for name, gradient in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], gradient, rtol=1e-5, atol=1e-5, msg=name)
    assert sum(bool(gradient.abs().max() > 1e-3) for gradient in alone.values()) > 50

    for name in ("three", "one"):  # unequal shares, and none at all
        model, cfg = network(tmp_path / "three", tmp_path / f"one_rank_{name}", tmp_path / name)
        RamsesTrainer.test(cfg, model)
        together, single = (tmp_path / f"{ranks}_{name}" for ranks in ("two_ranks", "one_rank"))
        assert (single / "predictions.json").stat().st_size > 1000
        for file in ("evaluation.json", "predictions.json", "mass_pairs.csv"):
            assert (together / file).read_bytes() == (single / file).read_bytes(), (name, file)


def wrong_input(args: argparse.Namespace, rank: int | None = None) -> None:
    if (comm.get_rank() if rank is None else rank) == 1:
        raise RamsesError("img7.png: cannot be read")
    comm.synchronize()  # waits for the other


def killed(args: argparse.Namespace) -> None:
    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.synchronize()


def mistake(args: argparse.Namespace) -> None:
    if comm.get_rank() == 1:
        raise KeyError("a fault in the program")
    time.sleep(300)  # is not even waiting for it


def test_wrong_input_of_one_rank_is_the_one_line_of_all() -> None:
    with pytest.raises(RamsesError, match=r"^img7\.png: cannot be read$"):
        launch(wrong_input, arguments("--num-processes", "2"))


def test_a_killed_rank_ends_the_others() -> None:
    begin = time.monotonic()
    with pytest.raises(RamsesError, match=r"^process 1 of this machine ended with SIGKILL"):
        launch(killed, arguments("--num-processes", "2"))
    assert time.monotonic() - begin < 120


def test_any_other_fault_shows_its_traceback_once(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        launch(mistake, arguments("--num-processes", "2"))
    assert stop.value.code == 1
    assert capfd.readouterr().err.count("KeyError: 'a fault in the program'") == 1


STOPPED = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started this may ignore it
from ramses_d2.engine.launch import end_on_signal
before = signal.getsignal(signal.SIGTERM)
with end_on_signal():
    pass
assert signal.getsignal(signal.SIGTERM) is before
with end_on_signal():
    os.kill(os.getpid(), int(sys.argv[1]))
    time.sleep(10)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_line_with_one_line(number: signal.Signals, status: int) -> None:
    ended = subprocess.run([sys.executable, "-c", STOPPED, str(int(number))], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == status, ended.stderr
    line = ended.stderr.splitlines()[-1]
    assert number.name in line and "--resume" in line and "Traceback" not in ended.stderr


def test_one_process_is_this_one() -> None:
    seen = []
    launch(seen.append, arguments())
    # --num-gpus 0 means the CPU, also where there is a GPU
    assert len(seen) == 1 and seen[0].opts == ["MODEL.DEVICE", "cpu"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num-gpus", "64"), r"--num-gpus 64, but this machine has \d+ CUDA GPUs"),
        (("--num-gpus", "2", "--num-processes", "2"), "either --num-gpus"),
        (("--num-processes", "-1"), "0 or more"),
        (("--num-machines", "2", "--machine-rank", "2"), "count from 0"),
        (("--num-machines", "2"), "needs --dist-url tcp://HOST:PORT"),
    ],
)
def test_arguments_that_contradict_each_other(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(RamsesError, match=message):
        process_count(arguments(*options))


def test_faults_are_found_before_processes_start() -> None:
    with pytest.raises(RamsesError, match="cannot be read"):
        launch(killed, arguments("--num-processes", "2"), prepare=lambda args: wrong_input(args, rank=1))


NCCL = "NCCL error in: ProcessGroupNCCL.cpp:77, {}\nLast error:\n{}\n"
DUPLICATE = "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000"


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (NCCL.format("remote process exited or there was a network error", "Connection closed by remote peer"), True),
        ("NCCL communicator was aborted on rank 0.\nmore", True),
        ("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1", True),
        (NCCL.format("unhandled system error (run with NCCL_DEBUG=INFO)", "/dev/shm/nccl-Xy: No space left"), False),
        (NCCL.format("invalid usage", DUPLICATE), False),
        (NCCL.format("unhandled system error", "Cuda failure 2 'out of memory'"), False),
    ],
)
def test_only_some_faults_say_that_a_process_is_lost(text: str, lost: bool) -> None:
    assert lost_connection(torch.distributed.DistBackendError(text)) == lost
    assert not lost_connection(ValueError(text)) and not lost_connection(None)


GONE = NCCL.format("remote process exited", "socketProgress: Connection closed by remote peer 10.0.0.1<4>")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.distributed.DistBackendError(GONE),
            r"^process 0 lost the connection .*\(socketProgress: .*10.0.0.1<4>\)$",
        ),
        (FileNotFoundError(2, "No such file or directory", "/proc/x"), "^/proc/x: No such file or directory$"),
        (RamsesError("Traceback (most recent call last):\n...\nramses_d2.errors.RamsesError: a fault"), "^a fault$"),
    ],
)
def test_a_fault_of_a_process_is_one_line(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ramses_d2.engine.launch.PATIENCE", 0.0)

    def fail(args: argparse.Namespace) -> None:
        raise error

    with pytest.raises(RamsesError, match=message) as found:
        run_process(fail, arguments(), 2)
    assert "\n" not in str(found.value)


def test_batch_norms_over_processes_need_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.SyncBatchNorm(4))
    assert distributed(network) is network
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(RamsesError, match="SyncBN needs CUDA .* MODEL.RAMSES.NORM to BN, LN or GN"):
        distributed(network)
