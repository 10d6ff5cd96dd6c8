"""Targets whose energy is computed outside JAX: agreement with JAX, and failures that cost one configuration each."""

import concurrent.futures
import dataclasses
import functools
import importlib
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import reference, targets
from boltzflow.analysis import weights
from boltzflow.errors import TargetError
from boltzflow.progress import Silent
from boltzflow.reference import effort
from boltzflow.sampling.samples import Samples
from boltzflow.targets.calculators import failures, from_calculator
from boltzflow.targets.from_ase import from_ase, gfn2_xtb

# Worker processes import the functions that they run, which they cannot do from a test module; hence a module file of its own.
POTENTIALS = '''
import os
import time

import numpy as np


def wells(x):
    """The pair double well of targets.double_well, with its gradient."""
    i, j = np.triu_indices(len(x), 1)
    d = x[i] - x[j]
    r = np.sqrt((d**2).sum(-1))
    s = r - 4.0
    pull = ((-8.0 * s + 3.6 * s**3) / r)[:, None] * d
    gradient = np.zeros_like(x)
    np.add.at(gradient, i, pull)
    np.add.at(gradient, j, -pull)
    return np.sum(-4.0 * s**2 + 0.9 * s**4), gradient


def troubled(x):
    """`wells`, with a different trouble in each range of the first coordinate."""
    trouble = int(x[0, 0] // 100)
    if trouble == 1:
        os._exit(1)
    if trouble == 2:
        raise ValueError("the geometry is bad\\nand more")
    if trouble == 3:
        return np.nan, np.zeros_like(x)
    if trouble == 4:
        time.sleep(100)
    if trouble == 5:
        return 0.0, np.full_like(x, np.inf)
    return wells(x)


def dies(x):
    os._exit(1)


def energy_only(x):
    return float(wells(x)[0])


def in_its_own_time(x, gradient):
    time.sleep(0.2)
    return 0.0


def hartree_per_bohr(x):
    """A spring of 1 hartree/bohr^2 on the positions in bohr."""
    moved = x - x.mean(axis=0)
    return 100.0 + 0.5 * np.sum(moved**2), moved


def lennard_jones():
    from ase.calculators.lj import LennardJones

    return LennardJones(sigma=2.0, epsilon=0.01, rc=100.0)
'''


@pytest.fixture(scope="module")
def potentials(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("potentials")
    (folder / "boltzflow_test_potentials.py").write_text(POTENTIALS)
    # Spawned processes get the search path of this one.
    sys.path.insert(0, str(folder))
    yield importlib.import_module("boltzflow_test_potentials")
    sys.path.remove(str(folder))
    del sys.modules["boltzflow_test_potentials"]


@pytest.fixture(scope="module")
def troubled(potentials: ModuleType):
    return from_calculator(potentials.troubled, 4, 2, name="troubled", workers=2, timeout=2.0)


@pytest.fixture
def threads():
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield executor


def configurations(n: int) -> jax.Array:
    wells = targets.get("dw4")
    return jax.vmap(lambda key: wells.starting_positions(key=key))(jax.random.split(jax.random.key(1), n))


def test_agrees_with_jax_in_processes(troubled: targets.Target):
    x = configurations(13)
    u, gradient = targets.get("dw4").energies_and_gradients(x)
    np.testing.assert_allclose(troubled.energies(x), u, rtol=1e-4, atol=1e-3)
    for energies, gradients in (troubled.energies_and_gradients(x), jax.vmap(jax.value_and_grad(troubled.energy))(x)):
        np.testing.assert_allclose(energies, u, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(gradients, gradient, rtol=1e-3, atol=1e-2)


def test_a_crash_costs_one_configuration(troubled: targets.Target):
    x = configurations(64)
    u, gradient = targets.get("dw4").energies_and_gradients(x)
    before = failures(troubled)
    with warnings.catch_warnings():
        # Only the first failure of a target warns, and the order of the tests is free.
        warnings.simplefilter("ignore", RuntimeWarning)
        energies, gradients = map(np.array, troubled.energies_and_gradients(x.at[17, 0, 0].set(150.0)))
    after = failures(troubled)
    assert after.failed == before.failed + 1
    assert after.evaluated == before.evaluated + 64
    assert energies[17] == np.inf
    assert not gradients[17].any()
    np.testing.assert_allclose(np.delete(energies, 17), np.delete(u, 17), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(np.delete(gradients, 17, 0), np.delete(gradient, 17, 0), rtol=1e-3, atol=1e-2)


def test_exception_nan_and_timeout(troubled: targets.Target):
    x = configurations(6)
    u = np.asarray(targets.get("dw4").energies(x))
    before = failures(troubled).failed
    for place, first in enumerate((250.0, 350.0, 450.0, 550.0)):
        x = x.at[place, 0, 0].set(first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        energies, gradients = map(np.asarray, troubled.energies_and_gradients(x))
    assert (energies[:4] == np.inf).all(), "what is wanted with its gradient and has none that is finite costs itself"
    assert not gradients[:4].any()
    np.testing.assert_allclose(energies[4:], u[4:], rtol=1e-4, atol=1e-3)
    assert failures(troubled).failed == before + 4


def test_one_failure_in_a_thousand(potentials: ModuleType, threads: concurrent.futures.Executor):
    """As a self-consistent field that does not converge: the others keep their energies, and it alone has no weight."""
    target = from_calculator(potentials.troubled, 4, 2, name="troubled", executor=threads)
    x = configurations(1000)
    expected = np.asarray(targets.get("dw4").energies(x))
    with pytest.warns(RuntimeWarning, match="ValueError: the geometry is bad") as caught:
        u = np.asarray(target.energies(x.at[617, 0, 0].set(250.0)))
    assert len(caught) == 1
    assert failures(target).failed == 1
    others = np.arange(1000) != 617
    np.testing.assert_allclose(u[others], expected[others], rtol=1e-4, atol=1e-3)
    zero, solved = np.zeros(1000), np.zeros(1000, int)
    samples = Samples(np.asarray(x), log_q=zero, u=u, status=solved, nfe=solved, path_length=zero)
    assert samples.n_failed == 1
    normalised = weights.normalized(samples.log_weight)
    assert normalised[617] == 0.0
    np.testing.assert_allclose(normalised[others], weights.normalized(-expected[others]), rtol=1e-2)
    assert np.isfinite([samples.ess().value, samples.log_z().value]).all()


@pytest.mark.parametrize(
    ("first", "message"),
    [(250.0, "ValueError: the geometry is bad. It"), (350.0, "its energy is nan"), (550.0, "gradient is not finite")],
)
def test_the_first_failure_warns_once(potentials: ModuleType, threads: concurrent.futures.Executor, first: float, message: str):
    target = from_calculator(potentials.troubled, 4, 2, name="troubled", executor=threads)
    x = configurations(2).at[0, 0, 0].set(first)
    with pytest.warns(RuntimeWarning, match=message) as caught:
        jax.block_until_ready(target.energies_and_gradients(x))
    assert len(caught) == 1
    jax.block_until_ready(target.energies_and_gradients(x))  # a warning here would be an error
    assert failures(target).failed == 2
    assert failures(target).first in message or message in failures(target).first + ". It"


def test_the_first_crash_and_timeout_say_so(potentials: ModuleType):
    with pytest.raises(TargetError, match=r"worker process died, twice.*__main__"):
        from_calculator(potentials.dies, 4, 2, name="dies", workers=1)
    slow = from_calculator(potentials.troubled, 4, 2, name="slow", workers=1, timeout=0.5)
    with pytest.warns(RuntimeWarning, match=r"longer than 0\.5 s"):
        assert np.asarray(slow.energies(configurations(1).at[0, 0, 0].set(450.0))) == np.inf


def test_transformations(potentials: ModuleType, threads: concurrent.futures.Executor):
    calls = []

    def wells(x: np.ndarray) -> tuple[float, np.ndarray]:
        calls.append(x)
        return potentials.wells(x)

    # A closure cannot be pickled: threads need not.
    target = from_calculator(wells, 4, 2, name="wells", executor=threads)
    exact = targets.get("dw4")
    assert all(type(x) is np.ndarray and x.dtype == np.float64 and x.shape == (4, 2) for x in calls)
    x = configurations(6)
    calls.clear()
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-2)
    close(target.energy(x[0]), exact.energy(x[0]))
    assert len(calls) == 1
    close(jax.grad(target.energy)(x[0]), jax.grad(exact.energy)(x[0]))
    close(jax.jit(jax.grad(target.energy))(x[0]), jax.grad(exact.energy)(x[0]))
    close(jax.jvp(target.energy, (x[0],), (x[1],))[1], jax.jvp(exact.energy, (x[0],), (x[1],))[1])
    nested = jax.vmap(jax.vmap(jax.grad(target.energy), in_axes=1), in_axes=0)
    close(nested(x.reshape(2, 3, 4, 2).swapaxes(1, 2)), exact.energies_and_gradients(x)[1].reshape(2, 3, 4, 2))
    scanned = jax.jit(lambda x: jax.lax.scan(lambda carry, one: (carry, jax.value_and_grad(target.energy)(one)), 0, x)[1])
    jax.tree.map(close, scanned(x), exact.energies_and_gradients(x))
    assert target.energies(x[:0]).shape == (0,)
    with jax.enable_x64(True):
        double = jnp.asarray(np.asarray(x), jnp.float64)
        np.testing.assert_allclose(target.energies(double), exact.energies(double), rtol=1e-12)
        assert target.energies(double).dtype == jnp.float64
    with pytest.raises(TargetError, match="second derivative"):
        jax.hessian(target.energy)(x[0])


def test_batches_over_devices(potentials: ModuleType, threads: concurrent.futures.Executor):
    target = from_calculator(potentials.wells, 4, 2, name="wells", executor=threads)
    x = configurations(6)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:2]), ("batch",))
    spread = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))
    for result, expected in zip(target.energies_and_gradients(spread), targets.get("dw4").energies_and_gradients(x), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process is confined to one core on Linux only")
def test_large_batches_do_not_hang_on_one_core():
    """With `jax.pure_callback` this hangs at the third size (jax 0.10.1)."""
    program = """
import concurrent.futures, os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, jax.numpy as jnp, numpy as np
from boltzflow.targets.calculators import from_calculator
pool = concurrent.futures.ThreadPoolExecutor(1)
target = from_calculator(lambda x: (1e-9 * np.sum((x - x.mean(0))**2), 0 * x), 500, 3, name="flat", executor=pool)
step = lambda x, _: (jnp.tanh(x - jax.vmap(jax.grad(target.energy))(x)) @ jnp.eye(3), None)
loop = jax.jit(lambda x: jax.lax.scan(step, x, length=3)[0])
for size in (100, 250, 100):
    x = y = jax.random.normal(jax.random.key(1), (size, 500, 3))
    for _ in range(5):
        y = loop(y)
    jax.block_until_ready([loop(x) for _ in range(5)])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], env=environment, timeout=120, check=True)


def test_without_gradient(potentials: ModuleType, threads: concurrent.futures.Executor):
    target = from_calculator(potentials.energy_only, 4, 2, name="wells", executor=threads)
    x = configurations(3)
    np.testing.assert_allclose(target.energies(x), targets.get("dw4").energies(x), rtol=1e-4, atol=1e-3)
    with pytest.raises(TargetError, match="'wells' gives no gradient"):
        target.energies_and_gradients(x)


def test_units(potentials: ModuleType, threads: concurrent.futures.Executor):
    target = from_calculator(
        potentials.hartree_per_bohr,
        3,
        name="springs",
        energy_unit="hartree",
        length_unit="bohr",
        reference_energy=100.0,
        temperature=300.0,
        executor=threads,
        parameters={"k": 1},
    )
    assert target.fingerprint == "springs(k=1, reference_energy=100.0) N=3 D=3 [nm, T=300.0 K]"
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 3)) * 0.01, jnp.float32)
    kt = 3.1668115634556e-6 * 300.0  # hartree
    k = 1.0 / 0.0529177210903**2 / kt

    def springs(x: jax.Array) -> jax.Array:
        return 0.5 * k * jnp.sum((x - x.mean(axis=0, keepdims=True)) ** 2)

    np.testing.assert_allclose(target.energy(x), springs(x), rtol=1e-4)
    np.testing.assert_allclose(jax.grad(target.energy)(x), jax.grad(springs)(x), rtol=1e-4)


def test_reference_sampler(potentials: ModuleType, threads: concurrent.futures.Executor):
    target = from_calculator(potentials.wells, 4, 2, name="wells", executor=threads, start=targets.get("dw4").start)
    result = reference.sample(target, 8, chains=1, temperatures=[1.0])
    assert result.dataset.positions.shape == (8, 4, 2)
    assert result.diagnostics["acceptance"][0] > 0.5
    assert failures(target).failed == 0


def test_the_first_frames_of_an_expensive_energy_come_soon(potentials: ModuleType, threads: concurrent.futures.Executor):
    target = from_calculator(potentials.wells, 4, 2, name="wells", executor=threads, start=targets.get("dw4").start)
    before, said = failures(target).evaluated, []

    class Sampling(Exception):
        pass

    class Listener(Silent):
        def update(self, done: int, **fields: object) -> None:
            said.append(str(fields["now"]))
            if said[-1].startswith("sampling"):
                raise Sampling

    with pytest.raises(Sampling):
        reference.sample(target, 100, seed=0, progress=Listener())
    # A minute of two processes where an energy takes 4 ms.
    assert failures(target).evaluated - before < 30_000
    assert said[0] == "measuring what an energy costs"
    assert said[1].startswith("starting and compiling 4 chains at ")
    assert said[2:4] == ["warm-up, part 1 of 3", "warm-up, part 2 of 3"]
    assert " s in all" in said[-1] or ":" in said[-1]


def test_a_short_warm_up_finds_the_step_sizes(monkeypatch: pytest.MonkeyPatch):
    # The schedule of expensive energies, tried with one that is cheap.
    monkeypatch.setattr(effort, "is_expensive", lambda target: True)
    target = targets.get("dw4")
    found = reference.sample(target, 600, seed=0).diagnostics
    assert found["chains"] == 4
    assert all(0.75 < acceptance < 0.95 for acceptance in found["acceptance"])
    assert found["mean_energy"] == pytest.approx(target.exact.mean_energy, abs=5 * found["mean_energy_error"])
    assert min(found["ess"].values()) > 100


def test_bad_arguments(potentials: ModuleType, threads: concurrent.futures.Executor):
    make = functools.partial(from_calculator, potentials.wells, 4, 2, name="bad")
    with pytest.raises(TargetError, match="must be positive"):
        make(workers=0)
    with pytest.raises(TargetError, match="only boltzflow's own worker processes can be stopped"):
        make(executor=threads, timeout=1.0)
    with pytest.raises(TargetError, match=r"known are kT, kJ/mol"):
        make(energy_unit=cast(Any, "rydberg"))
    with pytest.raises(TargetError, match="pass `temperature=`"):
        make(energy_unit="eV")
    with pytest.raises(TargetError, match="define it at the top level of a module, or pass executor"):
        from_calculator(lambda x: 0.0, 4, 2, name="bad")
    with pytest.raises(TargetError, match="keeps no count"):
        failures(targets.get("dw4"))


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: x, r"must be a number, but has shape \(4, 2\)"),
        (lambda x: (0.0, x[0]), r"shape \(4, 2\) of the positions, but has \(2,\)"),
        (lambda x: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda x: np.inf, "its energy is inf"),
        (lambda x: np.sum(x**2), "moved by 1"),
    ],
)
def test_bad_functions(threads: concurrent.futures.Executor, fn, message: str):
    with pytest.raises(TargetError, match=message):
        from_calculator(fn, 4, 2, name="bad", executor=threads)


def test_an_executor_that_was_shut_down(potentials: ModuleType):
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        target = from_calculator(potentials.wells, 4, 2, name="wells", executor=executor)
    with pytest.raises(TargetError, match="takes no more work"):
        target.energy(configurations(1)[0])


def test_missing_packages(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"tblite, which is not installed; run pip install 'boltzflow\[xtb\]'"):
        gfn2_xtb(["H", "H"], positions=np.zeros((2, 3)), temperature=300.0)
    with pytest.raises(TargetError, match="needs the package ase"):
        from_ase(lambda: None, ["H", "H"], positions=np.zeros((2, 3)), temperature=300.0, name="x")


def test_ase(potentials: ModuleType):
    pytest.importorskip("ase")
    geometry = np.array([[0.0, 0.0, 0.0], [0.23, 0.0, 0.0], [0.1, 0.21, 0.0]])
    make = functools.partial(from_ase, potentials.lennard_jones, ["Ar"] * 3, temperature=100.0, name="argon", workers=1)
    with pytest.raises(TargetError, match="3 symbols but positions of shape"):
        make(positions=geometry[:2])
    target = make(positions=geometry, parameters={"epsilon": 0.01})
    assert target.fingerprint == "argon(epsilon=0.01, symbols='ArArAr', symmetry='f419b0b4') N=3 D=3 [nm, T=100.0 K]"
    assert target.classes == (0, 1, 2)
    assert not target.reflections

    def exact(x: jax.Array) -> jax.Array:
        i, j = np.triu_indices(3, 1)
        attraction = (0.2**2 / jnp.sum((x[i] - x[j]) ** 2, axis=-1)) ** 3
        return 4.0 * 0.01 / (8.617333262e-5 * 100.0) * jnp.sum(attraction**2 - attraction)

    x = jax.vmap(lambda key: target.starting_positions(key=key))(jax.random.split(jax.random.key(0), 5))
    assert np.abs(np.asarray(x)[0] - (geometry - geometry.mean(axis=0))).max() < 0.02
    u, gradient = target.energies_and_gradients(x)
    # ASE shifts the energy to zero at the cutoff, which is far away.
    np.testing.assert_allclose(u, jax.vmap(exact)(x), rtol=1e-4)
    np.testing.assert_allclose(gradient, jax.vmap(jax.grad(exact))(x), rtol=1e-3, atol=1e-2)


def water_topology():
    app = pytest.importorskip("openmm.app")
    topology = app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    for name, symbol in (("O", "O"), ("H1", "H"), ("H2", "H")):
        topology.addAtom(name, app.Element.getBySymbol(symbol), residue)
    return topology


def test_gfn2_xtb():
    pytest.importorskip("tblite")
    geometry = 0.1 * np.array([[0.0, 0.0, 0.1193], [0.0, 0.7632, -0.4770], [0.0, -0.7632, -0.4770]])
    make = functools.partial(gfn2_xtb, ["O", "H", "H"], positions=geometry, temperature=300.0, workers=1, reference_energy=0.0)
    vacuum = make(solvent=None)
    # tblite's documentation: -137.96777 eV for this molecule.
    kt = 8.617333262e-5 * 300.0
    assert float(vacuum.energy(jnp.asarray(geometry, jnp.float32))) * kt == pytest.approx(-137.96777, abs=2e-3)
    water = make(reference_energy=-138.0)
    assert "solvent='water'" in water.fingerprint
    x = water.starting_positions(key=jax.random.key(0))
    direction = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    u, gradient = water.energies_and_gradients(x[None])
    up, down = water.energies(jnp.stack([x + 1e-3 * direction, x - 1e-3 * direction]))
    assert float(jnp.sum(gradient[0] * direction)) == pytest.approx(float(up - down) / 2e-3, rel=2e-2)
    assert float(vacuum.energy(x)) * kt > float(u[0]) * kt - 138.0, "water stabilises water"
    # The same molecule by a target of it.
    molecule = dataclasses.replace(vacuum, topology=water_topology(), structure=geometry, bonds=((0, 1), (0, 2)), classes=(0, 1, 1))
    same = gfn2_xtb(molecule, workers=1, reference_energy=-138.0)
    assert (same.bonds, same.classes, same.temperature, same.topology) == (molecule.bonds, (0, 1, 1), 300.0, molecule.topology)
    np.testing.assert_allclose(same.energies(x[None]), u, rtol=1e-5)
    with pytest.raises(TargetError, match="no molecule with a topology"):
        gfn2_xtb(vacuum)
    with pytest.raises(TargetError, match="needs positions="):
        gfn2_xtb(["O", "H", "H"], temperature=300.0)
    # Two nuclei in one place.
    with pytest.warns(RuntimeWarning, match="weight zero"):
        assert np.asarray(water.energies(jnp.stack([x, x.at[1].set(x[0])])))[1] == np.inf


ORPHANS = """
import time
import numpy as np
from boltzflow.blackbox import pools
import boltzflow_test_potentials as potentials

if __name__ == "__main__":
    pool = pools.OwnProcesses(potentials.in_its_own_time, 2, None, "slow")
    waiting = [pool.submit(np.zeros((1, 4, 2)), False) for _ in range(2)]
    [one.result() for one in waiting]
    print(*pool._pool._processes, flush=True)
    time.sleep(60)
"""


def _alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    # One that has ended but that nobody has asked for yet.
    return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_workers_end_with_a_parent_that_is_killed(potentials: ModuleType, tmp_path: Path):
    """Each would keep the queue of the other one open, and both would wait for ever."""
    script = tmp_path / "parent.py"
    script.write_text(ORPHANS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        workers = [int(number) for number in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 20.0
    while (left := [number for number in workers if _alive(number)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
