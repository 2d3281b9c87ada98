"""Plain values for JSON: what reports, CSV and JSON files share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


def json_values(value: Any) -> Any:
    """Turn dataclasses, tables and NumPy values into what ``json.dump(..., allow_nan=False)`` takes.

    Args:
        value: dataclass, DataFrame (becomes a list of rows), mapping, sequence, NumPy or plain value. NaN,
            infinity and pandas' NA become None: JSON has no word for them. Fields of a dataclass that are kept out of
            its ``repr`` (such as bootstrap replicates) are left out.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: json_values(getattr(value, field.name)) for field in dataclasses.fields(value) if field.repr
        }
    if isinstance(value, pd.DataFrame):
        return [json_values(row) for row in value.to_dict("records")]
    if isinstance(value, Mapping):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return json_values(value.tolist())
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    if isinstance(value, np.generic):
        return json_values(value.item())
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value
