"""Chunks of accelerators: timed, bounded by memory, remembered; processors keep theirs."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.sampling import tuning
from boltzflow.sampling.generate import generate
from corrections import normal


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As if there were one, with a cache of its own; the file that remembers."""
    monkeypatch.setattr(tuning, "_accelerated", lambda: True)
    monkeypatch.setenv("BOLTZFLOW_CACHE", str(tmp_path))
    return tmp_path / "chunks.json"


@pytest.fixture(scope="module")
def flow() -> Any:
    return normal(targets.get("dw4"), 1.6)


class Card:
    """A device that takes a fixed time for a call and more for each sample beyond those that it does at once, and has so much memory."""

    def __init__(self, at_once: int, memory: int = 10**9) -> None:
        self.at_once, self.memory, self.asked = at_once, memory, []

    def __call__(self, chunk: int) -> float:
        self.asked.append(chunk)
        if chunk > self.memory:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return max(1.0, chunk / self.at_once)


@pytest.mark.parametrize(
    ("card", "factor"), [(Card(64), 1), (Card(256), 4), (Card(4096), 16), (Card(4096, memory=300), 4), (Card(4096, memory=10), 1)]
)
def test_the_fastest_that_fits_is_taken_and_remembered(accelerator: Path, flow: Any, card: Card, factor: int) -> None:
    usual = flow.chunk_size
    assert tuning.chunk_size(flow, 100_000, card) == factor * usual
    asked = len(card.asked)
    assert tuning.chunk_size(flow, 200_000, card) == factor * usual
    assert len(card.asked) == asked
    assert list(json.loads(accelerator.read_text()).values()) == [factor * usual]


def test_short_drawings_and_processors_are_not_timed(accelerator: Path, flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(4096)
    assert tuning.chunk_size(flow, tuning.LONG * flow.chunk_size - 1, card) == flow.chunk_size
    monkeypatch.undo()
    assert tuning.chunk_size(flow, 10**6, card) == flow.chunk_size
    assert not card.asked
    assert not accelerator.exists()


@pytest.mark.parametrize("content", ["", "[1]", '{"a": "b"}', '{"a": -4}'])
def test_what_is_damaged_is_timed_again(accelerator: Path, flow: Any, content: str) -> None:
    accelerator.write_text(content)
    assert tuning.chunk_size(flow, 100_000, Card(256)) == 4 * flow.chunk_size
    assert tuning.chunk_size(flow, 100_000, Card(64)) == 4 * flow.chunk_size


def test_samples_are_the_same(accelerator: Path, flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    target = targets.get("dw4")
    monkeypatch.setattr(tuning, "LONG", 2)
    monkeypatch.setattr("boltzflow.sampling.generate.seconds_of_chunk", lambda flow, chunk: Card(256)(chunk))
    tuned = generate(flow, target, 600, seed=3)
    monkeypatch.setattr(tuning, "_accelerated", lambda: False)
    usual = generate(flow, target, 600, seed=3)
    assert list(json.loads(accelerator.read_text()).values()) == [256]
    np.testing.assert_allclose(tuned.positions, usual.positions, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tuned.log_weight, usual.log_weight, rtol=1e-5, atol=1e-4)
