"""A training on one process, several GPUs, several CPU processes, or several machines.

Detectron2's own launch starts GPUs; without CUDA it refuses, so processes that talk over gloo are started here. Either
way the process that fails first ends the others, and its error is the one that is shown.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.multiprocessing as mp
from detectron2.engine import default_argument_parser
from detectron2.engine import launch as launch_gpus
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ramses_d2.errors import RamsesError, file_errors_are_one_line, one_line

Main = Callable[[argparse.Namespace], Any]

_ERROR_PREFIX = f"{RamsesError.__module__}.{RamsesError.__name__}: "
# Seconds in which the launcher notices the process that failed first and ends those that only lost their connection
PATIENCE = 20.0
_TIMEOUT = timedelta(minutes=30)
# What gloo, NCCL and the store that processes meet in say when another process has gone; nothing that NCCL's general
# explanations of a code say
_LOST = re.compile(
    "connection closed by|connection reset by|connection was likely closed|broken pipe|remote process exit|"
    "communicator was aborted",
    re.IGNORECASE,
)


def argument_parser(epilog: str) -> argparse.ArgumentParser:
    """Detectron2's command line with ``--num-processes``, and a free port unless ``--dist-url`` says another."""
    parser = default_argument_parser(epilog=epilog)
    what = "processes *per machine* without CUDA, for example --num-gpus 0 --num-processes 2; they share the batch"
    parser.add_argument("--num-processes", type=int, default=0, metavar="N", help=what)
    parser.set_defaults(dist_url="auto")
    return parser


def process_count(args: argparse.Namespace) -> tuple[int, bool]:
    """Processes of this machine, and whether they run on GPUs; arguments that contradict each other are an error."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if args.num_processes < 0 or args.num_gpus < 0 or args.num_machines < 1:
        raise RamsesError("--num-gpus and --num-processes must be 0 or more, --num-machines 1 or more")
    if args.num_processes and args.num_gpus > 1:
        raise RamsesError("give either --num-gpus, or --num-gpus 0 --num-processes N for processes without CUDA")
    if args.num_gpus > max(gpus, 1):
        raise RamsesError(
            f"--num-gpus {args.num_gpus}, but this machine has {gpus} CUDA GPUs"
            f"{'' if gpus else f'; without any use --num-gpus 0 --num-processes {args.num_gpus}'}"
        )
    if not 0 <= args.machine_rank < args.num_machines:
        raise RamsesError(f"--machine-rank {args.machine_rank} of --num-machines {args.num_machines}: count from 0")
    if args.num_machines > 1 and args.dist_url == "auto":
        raise RamsesError(
            f"--num-machines {args.num_machines} needs --dist-url tcp://HOST:PORT of machine 0, on all machines"
        )
    on_gpus = gpus > 0 and args.num_gpus > 0 and not args.num_processes
    return (args.num_gpus if on_gpus else max(1, args.num_processes)), on_gpus


def launch(main: Main, args: argparse.Namespace, prepare: Main | None = None) -> None:
    """Call ``main(args)``, importable by name, in every process that the command line asks for; one alone is this one.

    ``prepare`` is called here first where processes are started, to find faults before that. Raises the RamsesError of
    the process that failed first; any other error of it has been printed, and ends this process.
    """
    processes, on_gpus = process_count(args)
    if not on_gpus and (processes * args.num_machines > 1 or args.num_gpus == 0 or args.num_processes):
        args.opts = [*(args.opts or []), "MODEL.DEVICE", "cpu"]
    if processes * args.num_machines == 1:
        main(args)
        return
    if prepare is not None:
        prepare(args)
    with _first_failure(), tempfile.TemporaryDirectory(prefix="ramses-") as folder:
        if on_gpus:
            machines = {"num_machines": args.num_machines, "machine_rank": args.machine_rank}
            launch_gpus(run_process, processes, **machines, dist_url=args.dist_url, args=(main, args, processes))
        else:
            url = f"file://{folder}/rendezvous" if args.dist_url == "auto" else args.dist_url
            mp.spawn(_run_gloo, args=(main, args, processes, url), nprocs=processes)


def distributed(model: nn.Module) -> nn.Module:
    """The network with gradients averaged over all processes, on GPUs or not; itself where there is only one."""
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).is_cuda
    if not on_gpu and any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        raise RamsesError(
            "SyncBN needs CUDA where several processes train: set MODEL.RAMSES.NORM to BN, LN or GN, and "
            'MODEL.FPN.NORM and MODEL.TIMM.NORM to "" where they are SyncBN'
        )
    # Running statistics are shared before an evaluation: to share them at every forward pass would hang where processes
    # evaluate unequal shares
    newer = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
    keep_buffers = {"forward_sync_buffers" if newer else "broadcast_buffers": False}
    return DistributedDataParallel(model, device_ids=[comm.get_local_rank()] if on_gpu else None, **keep_buffers)


def share_buffers(buffers: Mapping[str, torch.Tensor]) -> None:
    """Give every process the main one's buffers, in place; all have to call it. Running statistics of norms differ."""
    if comm.get_world_size() > 1:
        for buffer in buffers.values():
            torch.distributed.broadcast(buffer, 0)


def lost_connection(error: BaseException | None) -> bool:
    """Whether an error only says that another process has ended."""
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


def _cause(error: BaseException) -> str:
    """The line of an error that says most: NCCL's own, which stands behind a general one, or the first."""
    text = str(error)
    lines = [line.strip() for line in (text.partition("Last error:")[2].strip() or text).splitlines()]
    return next(filter(None, lines), type(error).__name__)


def _run_gloo(local_rank: int, main: Main, args: argparse.Namespace, processes: int, url: str) -> None:
    rank, world_size = args.machine_rank * processes + local_rank, args.num_machines * processes
    try:
        ranks = {"rank": rank, "world_size": world_size}
        torch.distributed.init_process_group("gloo", init_method=url, **ranks, timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        if lost_connection(error):
            time.sleep(PATIENCE)
        raise RamsesError(f"--dist-url {url}: no connection of the processes ({_cause(error)})") from error
    # Every process makes the group of every machine, in the same order. Detectron2 0.6 has no function for it
    for machine in range(args.num_machines):
        group = torch.distributed.new_group(list(range(machine * processes, (machine + 1) * processes)))
        if machine == args.machine_rank:
            comm._LOCAL_PROCESS_GROUP = group
    run_process(main, args, processes)
    torch.distributed.destroy_process_group()


def run_process(main: Main, args: argparse.Namespace, processes: int) -> None:
    """``main`` in a launched process, with errors that the launcher can tell apart."""
    logging.getLogger("ramses_d2").addHandler(logging.NullHandler())  # the launcher has said what setup warns of
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // processes))
    try:
        with file_errors_are_one_line():
            main(args)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except RamsesError as error:
        raise RamsesError(one_line(error)) from None
    except RuntimeError as error:
        if not lost_connection(error):
            raise
        time.sleep(PATIENCE)  # on this machine, the launcher ends this process meanwhile
        raise RamsesError(
            f"process {comm.get_rank()} lost the connection to another one, which has ended: see the output there "
            f"({_cause(error)})"
        ) from None


@contextmanager
def _first_failure() -> Iterator[None]:
    """Turn the failure of a launched process into one line, or print its traceback once; leave no process behind."""
    try:
        yield
    except mp.ProcessRaisedException as error:
        trace = str(error).strip()
        last = trace.splitlines()[-1]
        if last.startswith(_ERROR_PREFIX):
            raise RamsesError(last.removeprefix(_ERROR_PREFIX)) from None
        print(trace, file=sys.stderr)
        sys.exit(1)
    except mp.ProcessExitedException as error:
        why = getattr(error, "signal_name", None) or f"exit status {error.exit_code}"
        hint = " (out of memory? See dmesg)" if why == "SIGKILL" else ""
        raise RamsesError(f"process {error.error_index} of this machine ended with {why}{hint}; so did all") from None
    finally:
        children = multiprocessing.active_children()
        for child in children:
            child.terminate()
        for child in children:
            child.join(10)
            if child.is_alive():
                child.kill()


@contextmanager
def end_on_signal(hint: str = "--resume continues a training from its last checkpoint") -> Iterator[None]:
    """Ctrl-C and SIGTERM end a command line with one line, and the exit status that shells expect (130, 143)."""

    def terminate(*_: Any) -> None:  # taken like Ctrl-C
        raise KeyboardInterrupt(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as stop:
        number = signal.SIGTERM if stop.args == (signal.SIGTERM,) else signal.SIGINT
        print(f"stopped by {number.name}; {hint}", file=sys.stderr)
        raise SystemExit(128 + number) from None
    finally:
        signal.signal(signal.SIGTERM, before)
