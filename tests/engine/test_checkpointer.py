"""Checkpoints: whole or absent, and found again whatever happened to the newest ones."""

from __future__ import annotations

import errno
import logging
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ramses_d2.engine.checkpointer import CheckpointError, TrainingCheckpointer, WeightsOnly
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


def run(folder: Path, *iterations: int) -> None:
    """Checkpoints whose weights are the number of their iteration."""
    for iteration in iterations:
        training(folder, iteration, iteration=iteration).save(f"model_{iteration:07d}", iteration=iteration)


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


def test_the_last_checkpoint_is_resumed(tmp_path: Path) -> None:
    run(tmp_path, 1, 3)
    assert resumed(tmp_path) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth", "model_0000003.pth"]


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path: Path, damage: Any, caplog: Any) -> None:
    run(tmp_path, 1, 3, 5)
    damage(tmp_path / "model_0000005.pth")
    with caplog.at_level(logging.WARNING):
        assert resumed(tmp_path) == 3
    (record,) = caplog.records
    assert "model_0000005.pth" in record.message and "trying model_0000003.pth" in record.message


def test_none_readable_is_an_error_that_says_so(tmp_path: Path) -> None:
    run(tmp_path, 1)
    cut(tmp_path / "model_0000001.pth")
    with pytest.raises(RamsesError, match="model_0000001.pth.*none of the 1 checkpoints"):
        training(tmp_path).resume()
    run(tmp_path, 3)
    flip(tmp_path / "model_0000003.pth")
    with pytest.raises(RamsesError, match="none of the 2 checkpoints"):
        training(tmp_path).resume()


@pytest.mark.parametrize("name", [None, "model_0000009.pth", ""])
def test_last_checkpoint_missing_or_wrong(tmp_path: Path, name: str | None) -> None:
    """The newest counts, by iteration; weights that are no training's state are none."""
    run(tmp_path, 3, 11, 5)
    WeightsOnly(nn.Linear(40, 40), str(tmp_path)).save("model_best", iteration=99)
    WeightsOnly(nn.Linear(40, 40), str(tmp_path)).save("model_final_ema", iteration=99)
    if name is None:
        (tmp_path / "last_checkpoint").unlink()
    else:
        (tmp_path / "last_checkpoint").write_text(name)
    assert resumed(tmp_path) == 11


def test_a_checkpoint_chosen_by_hand(tmp_path: Path) -> None:
    """Of a run set back to step 3, what comes after it is the last resort."""
    run(tmp_path, 1, 3, 5)
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth\n")
    assert resumed(tmp_path) == 3
    cut(tmp_path / "model_0000003.pth")
    assert resumed(tmp_path) == 1
    cut(tmp_path / "model_0000001.pth")
    assert resumed(tmp_path) == 5


def test_a_final_checkpoint_has_the_place_of_its_iteration(tmp_path: Path) -> None:
    run(tmp_path, 1)
    training(tmp_path, 2, iteration=2).save("model_final", iteration=2)
    run(tmp_path, 5)  # it was continued with a higher MAX_ITER
    (tmp_path / "last_checkpoint").unlink()
    assert resumed(tmp_path) == 5
    cut(tmp_path / "model_0000005.pth")
    assert resumed(tmp_path) == 2


def test_nothing_to_resume(tmp_path: Path, caplog: Any) -> None:
    with caplog.at_level(logging.INFO, logger="ramses_d2"):
        assert not training(tmp_path).resume()
    assert "starts from the beginning" in caplog.text
    assert not training(tmp_path / "nosuch").resume()


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    run(tmp_path, 1)
    (tmp_path / "model_0000003.pth.unfinished").write_bytes(b"half")
    assert resumed(tmp_path) == 1
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    class Full:
        def __init__(self, stream: Any) -> None:
            self.stream, self.left = stream, 3000

        def write(self, data: bytes) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.stream.write(data)

        def flush(self) -> None:
            self.stream.flush()

    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, stream: save(content, Full(stream)))
    with pytest.raises(CheckpointError) as error:
        run(tmp_path, 3)
    message = str(error.value)
    assert "\n" not in message and "model_0000003.pth" in message and "No space left on device" in message
    assert "0.0 MB, " in message and "MB are free" in message
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    assert resumed(tmp_path) == 1


def test_a_file_that_the_system_cuts_off(tmp_path: Path) -> None:
    """The same with a real limit of the operating system instead of a stream that pretends."""
    run(tmp_path, 1)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(CheckpointError, match="model_0000003.pth: cannot be written .File too large"):
            run(tmp_path, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert resumed(tmp_path) == 1


def test_an_error_that_is_not_the_disks_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(content: Any, stream: Any) -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(RuntimeError, match="CUDA error"):
        run(tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_read_back(tmp_path: Path) -> None:
    """torch.load(weights_only=True) refuses them."""
    state = {"best": np.float64(3.5), "iteration": np.int64(1), "all": [np.float32(1.5)], "map": {1: np.ones(2)}}
    training(tmp_path, **state).save("model_0000001", iteration=np.int64(1))
    checkpointer = training(tmp_path)
    assert checkpointer.resume()
    loaded = checkpointer.checkpointables["trainer"].state
    assert (loaded["best"], loaded["iteration"], loaded["all"]) == (3.5, 1, [1.5])
    assert type(loaded["iteration"]) is int and torch.equal(loaded["map"][1], torch.ones(2, dtype=torch.float64))


def test_what_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"trainer\.hook\.path: a .*Path"):
        training(tmp_path, hook={"path": tmp_path}).save("model_0000001")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_are_never_written(tmp_path: Path) -> None:
    run(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"model_0000003.pth: not written, 1 weights .*model\.weight"):
        training(tmp_path, float("nan")).save("model_0000003")
    averaged = training(tmp_path)
    averaged.add_checkpointable("ema", State(average={"weight": torch.tensor([1.0, float("inf")])}))
    with pytest.raises(CheckpointError, match=r"ema\.average\.weight"):
        averaged.save("model_0000003")
    assert resumed(tmp_path) == 1


def test_another_network_is_not_resumed(tmp_path: Path) -> None:
    run(tmp_path, 1)
    other = TrainingCheckpointer(nn.Linear(40, 7), str(tmp_path), trainer=State())
    with pytest.raises(RamsesError, match="does not fit this config: weight is"):
        other.resume()


def test_a_checkpoint_that_could_run_code_is_skipped(tmp_path: Path, caplog: Any) -> None:
    run(tmp_path, 1, 3)
    torch.save({"model": {}, "trainer": State()}, tmp_path / "model_0000003.pth")
    with caplog.at_level(logging.WARNING):
        assert resumed(tmp_path) == 1
    assert "could run code" in caplog.text
