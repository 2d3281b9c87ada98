"""Weights that do not fit are never loaded in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ramses_d2.checkpoint.load import load_weights
from ramses_d2.errors import RamsesError


def save(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state, "iteration": 7}])
def test_checkpoints_and_bare_state_dicts_load(tmp_path: Path, wrap) -> None:  # noqa: ANN001
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    load_weights(target, save(tmp_path / "w.pth", wrap(source.state_dict())))
    assert torch.equal(source.weight, target.weight)


def test_missing_unknown_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    before = model.weight.clone()
    path = save(tmp_path / "w.pth", {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)})
    with pytest.raises(RamsesError, match=r"missing bias; unknown extra; weight is \(2, 4\).*wants \(2, 3\)") as error:
        load_weights(model, path)
    assert "\n" not in str(error.value) and torch.equal(model.weight, before)


def test_many_problems_are_counted(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(4)))
    with pytest.raises(RamsesError, match="and 6 more"):
        load_weights(model, save(tmp_path / "w.pth", {"extra": torch.zeros(1)}))


def test_no_file_no_checkpoint_no_name(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not a checkpoint")
    for path, message in (
        (str(tmp_path / "nosuch.pth"), "no such weights file"),
        (str(tmp_path / "text.pth"), "not a readable checkpoint"),
        (save(tmp_path / "list.pth", [1, 2]), "holds no state dict"),
        ("", "MODEL.WEIGHTS is empty"),
    ):
        with pytest.raises(RamsesError, match=message) as error:
            load_weights(nn.Linear(1, 1), path)
        assert "\n" not in str(error.value)
