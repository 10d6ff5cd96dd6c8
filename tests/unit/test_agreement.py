"""Processes that do not agree or cannot be reached, with a store of messages in place of JAX's."""

import json
import socket
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from boltzflow import cluster
from boltzflow.config import DataConfig, RunConfig
from boltzflow.datasets import Dataset
from boltzflow.errors import ConfigError, PeerLost, RunError
from boltzflow.targets import get
from boltzflow.training import agreement


class Store:
    """The key-value store of the coordination service, in which the other process has answered already."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.said: dict[str, str] = {}
        self._answer = answer

    def key_value_set(self, key: str, value: str) -> None:
        self.said[key] = value

    def blocking_key_value_get(self, key: str, _: int) -> str:
        if key.startswith("boltzflow/host/"):
            return f"host{key[-1]}"
        if key in self.said:
            return self.said[key]
        # The other one says the same, but for what it has otherwise.
        own = json.loads(self.said[key[:-1] + "0"])
        return json.dumps(own | {name: value for name, value in self._answer.items() if name in own})

    def key_value_dir_get(self, _: str) -> list[tuple[str, str]]:
        return []


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch):
    """Makes this process the first of two, the other of which answers otherwise."""

    def make(answer: Mapping[str, Any]) -> None:
        store = Store(answer)
        monkeypatch.setattr(cluster, "_client", lambda: store)
        monkeypatch.setattr(cluster, "count", lambda: 2)
        monkeypatch.setattr(cluster, "index", lambda: 0)
        monkeypatch.setattr(cluster, "_guard", lambda sentence: None)
        monkeypatch.setattr(cluster._state, "hosts", ())
        monkeypatch.setattr(cluster._state, "turn", 0)

    return make


def frames() -> Dataset:
    target = get("dw4")
    return Dataset(np.random.default_rng(0).normal(size=(8, 4, 2)).astype(np.float32), target.fingerprint, target.units)


@pytest.mark.parametrize(
    ("what", "theirs"),
    [
        ("the version of jax", "0.0.1"),
        ("the source of boltzflow (hash)", "another"),
        ("the target", "another"),
        ("the hash of the frames", "another"),
    ],
)
def test_what_differs_is_named_with_the_hosts(other, what, theirs):
    other({what: theirs})
    with pytest.raises(ConfigError) as caught:
        agreement.agree(RunConfig("dw4"), get("dw4"), frames())
    sentence = str(caught.value)
    assert sentence.startswith(f"{what} is ")
    assert f"for process 0 on host0, but {theirs} for process 1 on host1; " in sentence


def test_a_file_of_frames_that_differs(other, tmp_path):
    path = tmp_path / "frames.h5"
    path.write_bytes(b"frames")
    other({f"the hash of {path}": "another"})
    with pytest.raises(ConfigError, match="but another for process 1 on host1; give all processes the same frames"):
        agreement.agree(RunConfig("dw4", data=DataConfig(path=str(path))), get("dw4"), None)


def test_those_who_agree_go_on(other):
    other({})
    agreement.agree(RunConfig("dw4"), get("dw4"), frames())


def test_a_coordinator_that_does_not_answer():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RunError, match=f"the coordinator {address} does not answer after 0.2 s, asked from {socket.gethostname()}"):
        cluster._reach(address, 0.2)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("node1:5000", 2, None), "belong together"),
        (("node1:5000", 2, 2), "--process 2 does not exist; 2 processes are numbered from 0 to 1"),
        (("node1", 2, 1), "--coordinator must be HOST:PORT"),
    ],
)
def test_incomplete_and_wrong_addresses(given, sentence):
    with pytest.raises(ConfigError, match=sentence):
        cluster.initialise(*given)


def test_an_error_of_a_connection_that_broke(other):
    other({})
    cluster.meet()
    with pytest.raises(PeerLost, match=r"host1.* has gone or cannot be reached any more"), cluster.watched():
        raise RuntimeError("UNAVAILABLE: failed to connect to all addresses")
    # What has nothing to do with the others stays what it is.
    with pytest.raises(RuntimeError, match="another fault"), cluster.watched():
        raise RuntimeError("another fault")
