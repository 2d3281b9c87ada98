"""Starting a training from weights: heads may change, a backbone may not get lost."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from ramses_d2.checkpoint.load import load_initial_weights, read_state_dict
from ramses_d2.errors import RamsesError


def network(classes: int = 2, width: int = 4) -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.bottom_up = nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 1))
    model.head = nn.Conv2d(width, classes, 1)
    return model


def test_a_head_of_other_classes_starts_at_random(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target = network(classes=2), network(classes=3)
    before = target.head.weight.clone()
    torch.save({"model": source.state_dict() | {"more": torch.zeros(1)}}, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO, "ramses_d2"):
        load_initial_weights(target, str(tmp_path / "w.pth"))
    assert torch.equal(source.backbone.bottom_up[1].weight, target.backbone.bottom_up[1].weight)
    assert torch.equal(before, target.head.weight)
    assert "Loaded 4 of 6" in caplog.text and "2 tensors start at random: head.weight, head.bias" in caplog.text
    assert "1 tensors of the file are not used: more" in caplog.text


@pytest.mark.parametrize(("other", "message"), [({}, "is not in it"), ({"width": 8}, r"is \(8, 3, 1, 1\) there")])
def test_a_lost_backbone_is_an_error(tmp_path: Path, other: dict[str, int], message: str) -> None:
    state = network(**other).state_dict() if other else {"head.weight": torch.zeros(2, 4, 1, 1)}
    torch.save(state, tmp_path / "w.pth")
    target = network()
    before = target.head.weight.clone()
    with pytest.raises(RamsesError, match=message) as error:
        load_initial_weights(target, str(tmp_path / "w.pth"))
    assert "\n" not in str(error.value) and "and 3 more" in str(error.value)
    assert torch.equal(before, target.head.weight)


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"model": network().state_dict(), "extra": Payload(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(RamsesError, match="could run code") as error:
        read_state_dict(tmp_path / "w.pth")
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert (tmp_path / "ran").exists()  # the file does hold code


def test_half_a_file_is_one_line(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(RamsesError, match="not a readable checkpoint") as error:
        read_state_dict(tmp_path / "half.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_state_dicts_are_found_where_they_are(tmp_path: Path, wrap) -> None:  # noqa: ANN001
    state = network().state_dict()
    torch.save(wrap(state), tmp_path / "w.pth")
    assert read_state_dict(tmp_path / "w.pth").keys() == state.keys()
