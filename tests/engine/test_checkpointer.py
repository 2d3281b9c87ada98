"""Checkpoints: whole or absent, and found again whatever happened to the newest ones."""

from __future__ import annotations

import errno
import logging
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ramses_d2.engine.checkpointer import CheckpointError, TrainingCheckpointer, WeightsOnly, checkpoints_in
from ramses_d2.errors import RamsesError


class State:
    """Stands for the trainer: something with a state of numbers."""

    def __init__(self, **state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def training(folder: Path, weight: float = 0.0, **state: Any) -> TrainingCheckpointer:
    model = nn.Linear(40, 40)
    nn.init.constant_(model.weight, weight)
    return TrainingCheckpointer(model, str(folder), trainer=State(**state))


def run(folder: Path, *iterations: int, final: bool = False) -> None:
    """Checkpoints whose weights are the number of their iteration."""
    for iteration in iterations:
        name = "model_final" if final else f"model_{iteration:07d}"
        training(folder, iteration, iteration=iteration).save(name, iteration=iteration)


def resumed(folder: Path) -> float:
    checkpointer = training(folder)
    assert checkpointer.resume()
    weight = checkpointer.model.weight.mean().item()
    assert checkpointer.checkpointables["trainer"].state == {"iteration": weight}
    return weight


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One wrong byte among the weights, which torch.load reads without a word."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def hold_weights_alone(path: Path) -> None:
    WeightsOnly(nn.Linear(40, 40), str(path.parent)).save(path.stem)
    content = torch.load(path)
    torch.save({"model": content["model"]}, path)


def run_code(path: Path) -> None:
    torch.save({"model": {}, "trainer": State()}, path)


DAMAGES = [cut, flip, empty, hold_weights_alone, run_code]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path: Path, damage: Any, caplog: Any) -> None:
    run(tmp_path, 1, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth", "model_0000003.pth"]
    (tmp_path / "model_0000003.pth.unfinished").write_bytes(b"left by a kill")
    (tmp_path / "curves.png.unfinished-17").write_bytes(b"left by a kill")
    assert resumed(tmp_path) == 3 and not list(tmp_path.glob("*.unfinished*"))
    damage(tmp_path / "model_0000003.pth")
    with caplog.at_level(logging.WARNING):
        assert resumed(tmp_path) == 1
    (record,) = caplog.records
    assert "model_0000003.pth" in record.message and "trying model_0000001.pth" in record.message


def test_none_readable_is_an_error_that_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in (tmp_path, tmp_path / "nosuch"):
        with caplog.at_level(logging.INFO, logger="ramses_d2"):
            assert not training(folder).resume()
        assert "starts from the beginning" in caplog.text
    run(tmp_path, 1)
    cut(tmp_path / "model_0000001.pth")
    with pytest.raises(RamsesError, match=r"model_0000001.pth: .*another OUTPUT_DIR"):
        training(tmp_path).resume()
    run(tmp_path, 3)
    flip(tmp_path / "model_0000003.pth")
    with pytest.raises(RamsesError, match=r"none of the 2 checkpoints .*model_0000003.pth, model_0000001.pth"):
        training(tmp_path).resume()


@pytest.mark.parametrize("name", [None, "model_0000009.pth", ""])
def test_last_checkpoint_missing_or_wrong(tmp_path: Path, name: str | None) -> None:
    """The newest counts, by iteration; weights alone do not."""
    run(tmp_path, 3, 11, 5)
    for weights in ("model_best", "model_final_ema"):
        WeightsOnly(nn.Linear(40, 40), str(tmp_path)).save(weights, iteration=99)
    last = tmp_path / "last_checkpoint"
    assert last.read_text() == "model_0000005.pth"
    last.unlink()
    assert len(checkpoints_in(tmp_path)) == 3
    if name is not None:
        last.write_text(name)
    assert resumed(tmp_path) == 11


def test_a_checkpoint_chosen_by_hand(tmp_path: Path) -> None:
    """Of a run set back to step 3, what comes after it is the last resort."""
    run(tmp_path, 1, 3, 5)
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth\n")
    for expected in (3, 1):
        assert resumed(tmp_path) == expected
        cut(tmp_path / f"model_{expected:07d}.pth")
    assert resumed(tmp_path) == 5
    (tmp_path / "model_0000005.pth").rename(tmp_path / "mine.pth")
    (tmp_path / "last_checkpoint").write_text("mine.pth")
    assert resumed(tmp_path) == 5


def test_a_final_checkpoint_has_the_place_of_its_iteration(tmp_path: Path) -> None:
    run(tmp_path, 1)
    run(tmp_path, 2, final=True)
    run(tmp_path, 5)  # it was continued with a higher MAX_ITER
    (tmp_path / "last_checkpoint").unlink()
    assert resumed(tmp_path) == 5
    cut(tmp_path / "model_0000005.pth")
    assert resumed(tmp_path) == 2
    empty(tmp_path / "model_final.pth")
    assert resumed(tmp_path) == 1


class Full:
    """A stream on a disk with little room."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.left = stream, 3000

    def write(self, data: bytes) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()


def by_a_stream(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, stream: save(content, Full(stream)))
    run(folder, 3)


def by_the_system(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        run(folder, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def by_a_fault_of_cuda(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(content: Any, stream: Any) -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(torch, "save", fails)
    run(folder, 3)


def by_what_cannot_be_read_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training(folder, hook={"path": folder}).save("model_0000003")


def by_weights_that_are_not_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training(folder, float("nan")).save("model_0000003")


def by_an_average_that_is_infinite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    averaged = training(folder)
    averaged.add_checkpointable("ema", State(average={"weight": torch.tensor([1.0, float("inf")])}))
    averaged.save("model_0000003")


@pytest.mark.parametrize(
    ("fail", "kind", "message"),
    [
        (by_a_stream, CheckpointError, r"model_0000003.pth: .*No space left on device.* 0\.0 MB, \d.* MB are free"),
        (by_the_system, CheckpointError, r"model_0000003.pth: cannot be written .File too large"),
        (by_a_fault_of_cuda, RuntimeError, "CUDA error"),
        (by_what_cannot_be_read_back, TypeError, r"trainer\.hook\.path: a .*Path"),
        (
            by_weights_that_are_not_numbers,
            CheckpointError,
            r"model_0000003.pth: not written, 1 weights .*model\.weight",
        ),
        (by_an_average_that_is_infinite, CheckpointError, r"ema\.average\.weight"),
    ],
)
def test_a_save_that_fails_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: Any, fail: Callable, kind: type[Exception], message: str
) -> None:
    run(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(kind, match=message) as error:
        fail(tmp_path, monkeypatch)
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    assert resumed(tmp_path) == 1


def test_numbers_of_numpy_are_read_back(tmp_path: Path) -> None:
    """torch.load(weights_only=True) refuses them."""
    state = {"best": np.float64(3.5), "iteration": np.int64(1), "all": [np.float32(1.5)], "map": {1: np.ones(2)}}
    training(tmp_path, **state).save("model_0000001", iteration=np.int64(1))
    checkpointer = training(tmp_path)
    assert checkpointer.resume()
    loaded = checkpointer.checkpointables["trainer"].state
    assert (loaded["best"], loaded["iteration"], loaded["all"]) == (3.5, 1, [1.5])
    assert type(loaded["iteration"]) is int and torch.equal(loaded["map"][1], torch.ones(2, dtype=torch.float64))


def test_another_network_is_not_resumed(tmp_path: Path) -> None:
    run(tmp_path, 1)
    other = TrainingCheckpointer(nn.Linear(40, 7), str(tmp_path), trainer=State())
    with pytest.raises(RamsesError, match="does not fit this config: weight is"):
        other.resume()
