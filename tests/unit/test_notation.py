"""Every name that docs/notation.md gives is there."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "notation.md"
NAMES = sorted(set(re.findall(r"`((?:targets|sampling|flows|analysis|evaluation|nets|objectives|config)\.[A-Za-z_.]+)`", PAGE.read_text())))


def test_the_page_has_names():
    assert len(NAMES) > 30


@pytest.mark.parametrize("name", NAMES)
def test_name_is_there(name):
    parts = name.split(".")
    found = importlib.import_module(f"boltzflow.{parts[0]}")
    for part in parts[1:]:
        if isinstance(found, type) and dataclasses.is_dataclass(found) and part in {field.name for field in dataclasses.fields(found)}:
            return
        try:
            found = getattr(found, part)
        except AttributeError:
            found = importlib.import_module(f"{found.__name__}.{part}")
