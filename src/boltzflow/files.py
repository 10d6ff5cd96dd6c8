"""Small files, written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def replace(path: Path, content: str | bytes) -> None:
    """Writes a file at once: whoever reads it, or the run that is killed meanwhile, finds the old content or the new, never half.

    Raises:
        OSError: if the folder cannot be written.
    """
    part = path.with_name(path.name + ".part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)


def replace_json(path: Path, content: Any) -> None:
    """Writes JSON at once; numbers that are not finite are refused, since JSON cannot say them.

    Raises:
        OSError: if the folder cannot be written.
        ValueError: if a number is not finite.
    """
    replace(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
