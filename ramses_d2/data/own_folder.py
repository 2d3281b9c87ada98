"""Folders that a command wrote, and may replace as long as nobody put anything of his own into them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ramses_d2.errors import RamsesError


@dataclass(frozen=True)
class OwnFolder:
    """A kind of folder that a command writes, with a file in it that says what was written.

    Attributes:
        name: in messages.
        work: what the command does.
        record: name of the file.
        format: what the file says it is.
    """

    name: str
    work: str
    record: str
    format: str

    def entries(self, folder: Path) -> dict[str, Any]:
        """What the record must hold, for a folder that is complete but for it."""
        return {"format": self.format, "version": 1, "contents": _contents(folder)}

    def check_replaceable(self, output: Path, force: bool) -> None:
        """Stop where a folder must not be written; nothing but this command's own work is ever thrown away.

        Args:
            output: the folder to write.
            force: replace an earlier one.

        Raises:
            RamsesError: it exists without ``force``, is a file or not of this kind, or something in it was added or
                changed.
        """
        if output.exists() and not output.is_dir():
            raise RamsesError(f"{output} is a file: name a folder to write the {self.name} to")
        if not output.exists() or not any(output.iterdir()):
            return
        if not force:
            raise RamsesError(f"{output} already exists: choose another folder or replace it with --force")
        written = self._recorded(output)
        if written is None:
            raise RamsesError(
                f"{output} is no {self.name} (no {self.record} of one): refusing to replace it; choose another folder"
            )
        for name, state in _contents(output).items():
            if name != self.record and state != written.get(name):
                what = "changed" if name in written else "added"
                raise RamsesError(
                    f"{output / name} was {what} after the {self.work}: refusing to replace the folder; choose another"
                )

    def _recorded(self, folder: Path) -> dict[str, str] | None:
        try:
            record = json.loads((folder / self.record).read_text(encoding="utf-8"))
            return dict(record["contents"]) if record["format"] == self.format else None
        except (OSError, ValueError, LookupError, TypeError):
            return None


def _contents(folder: Path) -> dict[str, str]:
    """Checksums of the files by their path in the folder; of a link, where it leads."""
    files = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return {path.relative_to(folder).as_posix(): _state(path) for path in files}


def _state(path: Path) -> str:
    return f"-> {os.readlink(path)}" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
