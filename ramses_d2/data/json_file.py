"""Read a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ramses_d2.errors import RamsesError


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RamsesError: missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RamsesError(f"{path}: no such file") from None
    except OSError as error:
        raise RamsesError(f"{path}: cannot be read as a JSON file ({error.strerror}); name a file") from None
    except ValueError as error:
        raise RamsesError(f"{path}: not a JSON file ({error})") from None
