"""Metrics of a run as JSON lines, optionally also as TensorBoard events."""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow import files
from boltzflow.errors import ConfigError, RunError


class MetricsLog:
    """Appends lines to metrics.jsonl."""

    def __init__(self, folder: Path, *, keep_until: int, tensorboard: bool) -> None:
        """Opens the log and drops the lines after step `keep_until`, which the resumed run writes again."""
        self._path = path = folder / "metrics.jsonl"
        if path.is_file():
            lines = [line for line in path.read_text().splitlines() if _step(line) <= keep_until]
            files.replace(path, "".join(line + "\n" for line in lines))
        self._file = path.open("a", encoding="utf-8")
        self._board = _tensorboard(folder / "tensorboard") if tensorboard else None

    def write(self, *, step: int, **values: Any) -> None:
        """Writes one line at once, so that a killed run has it; numbers that are not finite become null, which JSON can say."""
        values = _finite(values)
        try:
            self._file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"{self._path} cannot be written ({files.reason(error)}); the checkpoints are kept, so that the run can be continued with "
                f"`boltzflow resume {self._path.parent}` when that is mended."
            ) from error
        if self._board is not None:
            for name, value in values.items():
                scalar = value.get("value") if isinstance(value, dict) else value
                if scalar is not None:
                    self._board.add_scalar(name, scalar, step)

    def close(self) -> None:
        """Closes the files."""
        # What could not be written was told when it was tried.
        with contextlib.suppress(OSError):
            self._file.close()
        if self._board is not None:
            self._board.close()


def columns(path: Path) -> dict[str, Float[np.ndarray, " steps"]]:
    """A log as columns by name, NaN where a step has no such figure; the ends of an interval are `NAME_low` and `NAME_high`.

    Args:
        path: metrics.jsonl, also one that is being written; without one there are no columns.
    """
    lines: dict[int, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        step = _step(line)
        # The last line of a killed run may be torn.
        if math.isfinite(step):
            lines.setdefault(int(step), {}).update(_numbers(json.loads(line)))
    steps = sorted(lines)
    names = dict.fromkeys(name for step in steps for name in lines[step])
    return {name: np.array([lines[step].get(name, math.nan) for step in steps]) for name in names}


def _numbers(entry: dict[str, Any]) -> dict[str, float]:
    found = {}
    for name, value in entry.items():
        parts = {"": value.get("value"), "_low": value.get("low"), "_high": value.get("high")} if isinstance(value, dict) else {"": value}
        found |= {name + end: float(part) for end, part in parts.items() if isinstance(part, int | float)}
    return found


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return _finite(value)
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: plain(value) for name, value in values.items()}


def _step(line: str) -> float:
    """Step of a line; a line cut by a kill counts as after everything."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _tensorboard(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ConfigError('run.tensorboard needs the extra `tracking`; install it with `pip install "boltzflow[tracking]"`.') from error
    return SummaryWriter(str(folder))
