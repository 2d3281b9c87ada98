"""metrics.json after a resume: no step twice, no half line."""

from __future__ import annotations

from pathlib import Path

from ramses_d2.engine.metrics_file import forget_steps


def test_steps_that_run_again_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    kept, late = '{"iteration": 1}\n{"iteration": 3}\n', '{"iteration": 2, "segm/AP": 1.0}\n'
    path.write_text(kept + '{"iteration": 4}\n' + late + '{"iteration": 5, "los')
    with path.open("a") as writer:  # Detectron2's, which is open already
        forget_steps(path, 4)
        writer.write('{"iteration": 4, "again": 1}\n')
    assert path.read_text() == kept + late + '{"iteration": 4, "again": 1}\n'


def test_nothing_to_forget(tmp_path: Path) -> None:
    forget_steps(tmp_path / "metrics.json", 4)
    assert not list(tmp_path.iterdir())
    (tmp_path / "metrics.json").write_text('{"iteration": 1}\n')
    forget_steps(tmp_path / "metrics.json", 2)
    assert (tmp_path / "metrics.json").read_text() == '{"iteration": 1}\n'
