"""metrics.json after a resume: no step twice, no half line."""

from __future__ import annotations

from pathlib import Path

from ramses_d2.engine.curves import forget_steps


def test_steps_that_run_again_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    kept, late = '{"iteration": 1}\n{"iteration": 3}\n', '{"iteration": 2, "segm/AP": 1.0}\n'
    path.write_text(kept + '{"iteration": 4}\n' + late + '{"iteration": 5, "los')
    with path.open("a") as writer:  # Detectron2's, which is open already
        forget_steps(path, 4)
        writer.write('{"iteration": 4, "again": 1}\n')
    assert path.read_text() == kept + late + '{"iteration": 4, "again": 1}\n'


def test_the_last_evaluation_of_a_run_that_goes_on(tmp_path: Path) -> None:
    """Detectron2 counts it as the step after the last one. Of a step that failed, other figures may be there."""
    path = tmp_path / "metrics.json"
    kept = '{"iteration": 3, "total_loss": 1.0}\n{"iteration": 4, "ema/segm/AP": 1.0}\n'
    text = kept + '{"iteration": 4, "ramses/positive_cells": 1}\n{"iteration": 4, "segm/AP": 1, "total_loss": 1}\n'
    path.write_text(text)
    forget_steps(path, 4, longer=True)
    assert path.read_text() == kept
    forget_steps(path, 4)  # it is done again
    assert path.read_text() == kept.splitlines(keepends=True)[0]
    path.write_text('{"iteration": 1}\n[]\n3\n{}\n')
    forget_steps(path, 4)
    assert path.read_text() == '{"iteration": 1}\n'


def test_nothing_to_forget(tmp_path: Path) -> None:
    forget_steps(tmp_path / "metrics.json", 4)
    assert not list(tmp_path.iterdir())
    (tmp_path / "metrics.json").write_text('{"iteration": 1}\n')
    forget_steps(tmp_path / "metrics.json", 2)
    assert (tmp_path / "metrics.json").read_text() == '{"iteration": 1}\n'
