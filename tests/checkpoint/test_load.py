"""Weights that do not fit are never loaded in silence, and code in a file never runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ramses_d2.checkpoint.load import load_initial_weights, load_weights, read_state_dict
from ramses_d2.errors import RamsesError


def save(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


def network(classes: int = 2, width: int = 4) -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.bottom_up = nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 1))
    model.head = nn.Conv2d(width, classes, 1)
    return model


def refusal(load: Callable[..., object], *arguments: Any) -> str:
    with pytest.raises(RamsesError) as error:
        load(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "wrap",
    [lambda state: state, lambda state: {"model": state, "iteration": 7}, lambda state: {"state_dict": state, "n": 3}],
)
def test_state_dicts_are_found_where_they_are(tmp_path: Path, wrap: Callable[[dict], dict]) -> None:
    source, target = network(), network()
    load_weights(target, save(tmp_path / "w.pth", wrap(source.state_dict())))
    assert torch.equal(source.head.weight, target.head.weight)


def test_missing_unknown_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    before = model.weight.clone()
    message = refusal(load_weights, model, save(tmp_path / "w.pth", {"weight": torch.zeros(2, 4), "extra": before}))
    for named in ("bias", "extra", "weight is (2, 4)", "(2, 3)", "w.pth"):
        assert named in message
    assert torch.equal(model.weight, before)
    many = nn.Sequential(*(nn.Linear(1, 1) for _ in range(4)))
    assert "and 6 more" in refusal(load_weights, many, save(tmp_path / "w.pth", {"extra": torch.zeros(1)}))


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.pth", network().state_dict())
    content = Path(whole).read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.pth").write_text("not a checkpoint")
    save(tmp_path / "list.pth", [1, 2])
    save(tmp_path / "empty.pth", {"model": {}})
    save(tmp_path / "code.pth", {"model": network().state_dict(), "extra": Payload(tmp_path / "ran")})
    for name, named in (
        ("nosuch", "no such"),
        ("half", "not a readable checkpoint"),
        ("text", "not a readable checkpoint"),
        ("list", "list"),
        ("empty", "no state dict"),
        ("code", "could run code"),
    ):
        message = refusal(read_state_dict, tmp_path / f"{name}.pth")
        assert named in message and f"{name}.pth" in message
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "code.pth", weights_only=False)
    assert (tmp_path / "ran").exists()  # the file does hold code
    assert "MODEL.WEIGHTS" in refusal(load_weights, network(), "")


def test_a_head_of_other_classes_starts_at_random(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target = network(classes=2), network(classes=3)
    before = target.head.weight.clone()
    path = save(tmp_path / "w.pth", source.state_dict() | {"more": torch.zeros(1)})
    with caplog.at_level(logging.INFO, "ramses_d2"):
        load_initial_weights(target, path)
    assert torch.equal(source.backbone.bottom_up[1].weight, target.backbone.bottom_up[1].weight)
    assert torch.equal(before, target.head.weight)
    loaded, random, unused = caplog.messages
    assert "4 of 6" in loaded and random.endswith("head.weight, head.bias") and unused.endswith(": more")


@pytest.mark.parametrize("width", [None, 8])
def test_a_lost_backbone_is_an_error(tmp_path: Path, width: int | None) -> None:
    state = network(width=width).state_dict() if width else {"head.weight": torch.zeros(2, 4, 1, 1)}
    target = network()
    before = target.head.weight.clone()
    message = refusal(load_initial_weights, target, save(tmp_path / "w.pth", state))
    assert "w.pth" in message and "backbone.bottom_up.0.weight" in message and "and 3 more" in message
    assert ("is (8, 3, 1, 1)" in message) == bool(width) and torch.equal(before, target.head.weight)
