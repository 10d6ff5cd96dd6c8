"""Programs kept on disk: the same bits without tracing, and another program for anything that would change it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow.sampling import programs


class Affine(eqx.Module):
    weight: jax.Array
    power: float = eqx.field(static=True, default=2.0)
    shape: Any = eqx.field(static=True, default=None)


TRACED: list[int] = []


def bend(module: Affine, x: jax.Array) -> dict[str, jax.Array]:
    TRACED.append(1)
    return {"y": jnp.sin(module.weight @ x) ** module.power, "n": jnp.asarray(len(x))}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    TRACED.clear()
    yield tmp_path / "programs"
    jax.config.update("jax_compilation_cache_dir", before)


WEIGHT = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)), jnp.float32)
X = jnp.asarray([0.3, -1.2, 0.7], jnp.float32)


def fresh() -> Callable[..., Any]:
    """As a new process has it: nothing in memory."""
    return programs.stored(bend)


def test_a_new_process_gives_the_same_bits_without_tracing(cache: Path) -> None:
    expected = eqx.filter_jit(bend)(Affine(WEIGHT), X)
    TRACED.clear()
    first = fresh()(Affine(WEIGHT), X)
    assert len(TRACED) == 1
    again = fresh()
    # Other values of the parameters, not those that it was compiled with.
    second, other = again(Affine(WEIGHT), X), again(Affine(2.0 * WEIGHT), X)
    assert len(TRACED) == 1
    assert len(list(cache.iterdir())) == 1
    for found in (first, second):
        assert np.array_equal(found["y"], expected["y"])
        assert found["n"] == 3
    assert np.array_equal(other["y"], eqx.filter_jit(bend)(Affine(2.0 * WEIGHT), X)["y"])


@pytest.mark.parametrize(
    "arguments",
    [
        (Affine(WEIGHT, power=3.0), X),
        (Affine(WEIGHT[:2]), X),
        (Affine(WEIGHT.astype(jnp.bfloat16)), X),
        (Affine(WEIGHT, shape=(1, 2)), X),
    ],
)
def test_what_changes_the_program_has_another(cache: Path, arguments: tuple[Affine, jax.Array]) -> None:
    fresh()(Affine(WEIGHT), X)
    found = fresh()(*arguments)
    assert len(list(cache.iterdir())) == 2
    assert np.array_equal(found["y"], eqx.filter_jit(bend)(*arguments)["y"])


def test_settings_and_source_change_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, structure = jax.tree.flatten((WEIGHT,))
    key = programs._key("name", leaves, structure, None)
    assert key == programs._key("name", [2.0 * WEIGHT], structure, None)
    with jax.default_matmul_precision("highest"):
        assert programs._key("name", leaves, structure, None) != key
    monkeypatch.setattr(programs, "source_hash", lambda: "another version")
    assert programs._key("name", leaves, structure, None) != key


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x04N."])
def test_a_damaged_program_is_made_anew(cache: Path, content: bytes) -> None:
    expected = fresh()(Affine(WEIGHT), X)
    (path,) = cache.iterdir()
    path.write_bytes(content)
    assert np.array_equal(fresh()(Affine(WEIGHT), X)["y"], expected["y"])
    assert len(TRACED) == 2
    fresh()(Affine(WEIGHT), X)
    assert len(TRACED) == 2


def test_modules_that_do_not_print_what_they_are_are_not_kept(cache: Path) -> None:
    for shape in (lambda: 0, np.zeros(5000)):
        if callable(shape):
            fresh()(Affine(WEIGHT, shape=shape), X)
            assert not cache.exists()
        leaves, structure = jax.tree.flatten((WEIGHT,))
        assert programs._key("name", leaves, structure, [shape]) is None


def test_inside_another_program_it_is_traced(cache: Path) -> None:
    call = fresh()
    gradient = jax.grad(lambda x: call(Affine(WEIGHT), x)["y"].sum())(X)
    assert gradient.shape == (3,)
    assert not cache.exists()


def test_without_a_cache_nothing_is_kept(cache: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", None)
    fresh()(Affine(WEIGHT), X)
    assert not cache.exists()


@pytest.mark.skipif(jax.device_count() < 2, reason="one device")
def test_arrays_on_another_device_stay_there(cache: Path) -> None:
    second = jax.devices()[1]
    found = fresh()(jax.device_put(Affine(WEIGHT), second), jax.device_put(X, second))
    assert found["y"].devices() == {second}
    assert not cache.exists()


SCRIPT = """
import sys
import jax, jax.numpy as jnp
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from boltzflow.sampling import programs
print(float(programs.stored(lambda x: jnp.sum(jax.lax.fori_loop(0, 9, lambda i, y: jnp.sin(y @ y.T + i), x)))(jnp.eye(7))))
"""


def test_a_program_that_jax_has_in_its_own_cache_is_kept_whole(tmp_path: Path) -> None:
    """Serialised again, what JAX has loaded from its cache lacks functions, which shows when another process runs it."""
    found = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
        if len(found) == 1:
            # As if the first process had been killed before it could keep its program.
            for path in (tmp_path / "programs").iterdir():
                path.unlink()
    assert len(set(found)) == 1
