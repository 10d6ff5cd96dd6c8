"""Several processes that agree, or say which of them does not: with threads in place of processes, and a store in place of JAX's."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from boltzflow import cluster
from boltzflow.config import DataConfig, RunConfig
from boltzflow.datasets import Dataset
from boltzflow.errors import ConfigError, PeerLost, RunError
from boltzflow.targets import get
from boltzflow.training import agreement

_here = threading.local()


class Store:
    """What JAX's coordination client does, for threads."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._news = threading.Condition()
        self.gone: str | None = None

    def key_value_set(self, key: str, value: str) -> None:
        with self._news:
            self._values[key] = value
            self._news.notify_all()

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        with self._news:
            if self._news.wait_for(lambda: key in self._values, milliseconds / 1000):
                return self._values[key]
        raise RuntimeError("DEADLINE_EXCEEDED: nothing yet")

    def key_value_dir_get(self, prefix: str) -> list[tuple[str, str]]:
        return [(key, value) for key, value in self._values.items() if key.startswith(prefix)]

    def forget(self) -> None:
        self._values.clear()

    def wait_at_barrier(self, name: str, milliseconds: int) -> None:
        if self.gone:
            raise RuntimeError(self.gone)


class State:
    """That of a process, of which each thread has one."""

    guard = None

    @property
    def hosts(self) -> tuple[str, ...]:
        return getattr(_here, "hosts", ())

    @hosts.setter
    def hosts(self, hosts: tuple[str, ...]) -> None:
        # As if each process were on a host of its own.
        _here.hosts = tuple(f"host{number}" for number in range(len(hosts)))

    @property
    def turn(self) -> int:
        return getattr(_here, "turn", 0)

    @turn.setter
    def turn(self, turn: int) -> None:
        _here.turn = turn


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()
    monkeypatch.setattr(cluster, "_client", lambda: made)
    monkeypatch.setattr(cluster, "count", lambda: 2)
    monkeypatch.setattr(cluster, "index", lambda: _here.index)
    monkeypatch.setattr(cluster, "_state", State())
    monkeypatch.setattr(cluster, "_guard", lambda sentence: None)
    monkeypatch.setattr(cluster, "_SLICE_SECONDS", 0.02)
    return made


def both(work: Callable[[int], Any]) -> list[Any]:
    """What two processes give, or raise."""
    found: list[Any] = [None, None]

    def run(index: int) -> None:
        _here.index = index
        try:
            found[index] = work(index)
        except Exception as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


class TestAgreement:
    def test_those_that_agree(self, store):
        assert both(lambda index: cluster.agree({"jax": "0.10"}, "mend it.")) == [None, None]

    def test_what_differs_is_named_with_the_hosts_in_both(self, store):
        for error in both(lambda index: cluster.agree({"a": 1, "the version of jax": f"0.{index}"}, "mend it.")):
            assert isinstance(error, ConfigError)
            assert str(error) == "the version of jax is 0.0 for process 0 on host0, but 0.1 for process 1 on host1; mend it."

    def test_a_process_that_fails_is_told(self, store):
        def work(index: int) -> None:
            cluster.meet()
            if index:
                store.key_value_set("boltzflow/failed/1", "process 1 on host1: the disk is full.")
                raise RunError("the disk is full.")
            cluster.agree({}, "")

        first, second = both(work)
        assert isinstance(second, RunError)
        assert isinstance(first, PeerLost)
        assert str(first) == "process 1 on host1: the disk is full."

    def test_options_versions_and_data_of_a_run(self, store, monkeypatch, tmp_path):
        target, frames = get("dw4"), np.zeros((3, 4, 2), np.float32)

        def run(config: Callable[[int], RunConfig], dataset: Callable[[int], Dataset | None] = lambda index: None) -> list[Any]:
            store.forget()
            return both(lambda index: agreement.agree(config(index), target, dataset(index)))

        assert run(lambda index: RunConfig("dw4")) == [None, None]
        for error in run(lambda index: RunConfig("dw4", precision="double" if index else "single")):
            assert str(error).startswith("the option precision is not given for process 0 on host0, but double for process 1 on host1")
        for error in run(lambda index: RunConfig("dw4"), lambda index: Dataset(frames + index, target.fingerprint, target.units)):
            assert "the hash of the frames is" in str(error)
            assert "give all processes the same frames" in str(error)
        path = tmp_path / "frames.npz"
        path.write_bytes(b"frames")
        assert run(lambda index: RunConfig("dw4", data=DataConfig(path=str(path)))) == [None, None]
        real = agreement.versions
        monkeypatch.setattr(agreement, "versions", lambda: {**real(), **({"jax": "0.1"} if _here.index else {})})
        for error in run(lambda index: RunConfig("dw4")):
            assert "the version of jax is" in str(error)
            assert "but 0.1 for process 1 on host1" in str(error)


class TestTheFirst:
    def test_others_are_told_what_it_found(self, store):
        done = []
        assert both(lambda index: cluster.first(lambda: done.append(index) or {"steps": 7})) == [{"steps": 7}, {"steps": 7}]
        assert done == [0]

    def test_its_error_is_that_of_all(self, store):
        def fail() -> None:
            raise RunError("the folder cannot be written.")

        first, second = both(lambda index: cluster.first(fail))
        assert str(first) == "the folder cannot be written."
        assert isinstance(second, RunError)
        assert str(second) == "process 0 on host0: the folder cannot be written."

    def test_it_holds_what_it_holds_until_the_end(self, store):
        seen = []

        @contextlib.contextmanager
        def lock() -> Iterator[None]:
            seen.append("taken")
            yield
            seen.append("free")

        def work(index: int) -> None:
            with cluster.held(lock):
                seen.append(f"work {index}")

        both(work)
        assert seen[0] == "taken"
        assert sorted(seen) == ["free", "taken", "work 0", "work 1"]


class TestLoss:
    def test_who_has_gone_is_named(self, store):
        store.gone = "Barrier timed out.\nThe first task at the barrier: 0. Some timed out task names:\n1\n\n\nRPC: /xla.coordination"

        def work(index: int) -> None:
            cluster.meet()
            if not index:
                with cluster.watched():
                    raise ValueError("Gloo all-reduce failed: Connection reset by peer")

        error = both(work)[0]
        assert isinstance(error, PeerLost)
        assert str(error).startswith("process 1 on host1 has gone or cannot be reached any more (Gloo all-reduce failed")

    @pytest.mark.parametrize(
        ("message", "absent"),
        [
            ("The first task at the barrier: 0. Some timed out task names:\n3\n12\n\n\nRPC: /xla", [3, 12]),
            ("Timed out task names: /job:jax_worker/replica:0/task:2", [2]),
            ("Barrier failed because: UNAVAILABLE: Task 1 heartbeat timeout. Barrier Id: after::0, Task: 1", [1]),
            ("something else", []),
        ],
    )
    def test_what_jax_says_of_the_absent(self, message, absent):
        assert cluster._absent(message) == absent

    def test_other_errors_stay(self, store):
        def work(index: int) -> None:
            with cluster.watched():
                raise ValueError("shapes do not match")

        assert all(str(error) == "shapes do not match" for error in both(work))


def test_alone_nothing_is_asked():
    assert (cluster.joined(), cluster.count(), cluster.index(), cluster.chief()) == (False, 1, 0, True)
    cluster.agree({"a": 1}, "")
    cluster.together()
    assert cluster.first(lambda: 3) == 3
    array = np.arange(3)
    assert cluster.broadcast(array) is array


class TestJoining:
    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            (("host:1", None, None), "belong together"),
            (("host:1", 2, None), "belong together"),
            (("host:1", 2, 2), "--process 2 does not exist"),
            (("host", 2, 1), "must be HOST:PORT"),
        ],
    )
    def test_what_does_not_go_together(self, given, sentence):
        with pytest.raises(ConfigError, match=sentence):
            cluster.initialise(*given)

    def test_no_queue_around(self, monkeypatch):
        for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST", "JAX_COORDINATOR_ADDRESS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
        with pytest.raises(ConfigError, match="found no SLURM, Open MPI or Kubernetes"):
            cluster.initialise()

    def test_a_coordinator_that_does_not_answer(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(RunError, match=rf"the coordinator 127.0.0.1:{port} does not answer after 1 s, asked from .*; see whether"):
            cluster.initialise(f"127.0.0.1:{port}", 2, 1, seconds=1)
        assert time.monotonic() - began < 20


def test_the_guard_speaks_when_its_process_is_killed():
    code = f"import os\nfrom boltzflow import cluster\ncluster._guard('it was {json.dumps('killed')[1:-1]}.')\nos.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert killed.stderr == "boltzflow: error: it was killed.\n"
    code = "from boltzflow import cluster\ncluster._guard('it was killed.')\ncluster.farewell()"
    assert not subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stderr
