"""JAX potentials as targets: units, symmetries and gradients by closed forms, and one sentence for each fault."""

import concurrent.futures
import functools
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.errors import TargetError

STRUCTURE = np.array([[0.0, 0.0, 0.0], [0.15, 0.0, 0.0], [0.0, 0.15, 0.02], [0.0, 0.01, 0.15]])
FIRST, SECOND = np.triu_indices(4, k=1)
REST = np.linalg.norm(STRUCTURE[FIRST] - STRUCTURE[SECOND], axis=-1)
KT = 0.00831446261815324 * 300.0


def springs(x: Any, stiffness: float = 2e4, length: float = 1.0) -> Any:
    """Springs between all atoms, in kJ/mol and nm (or units of `length` nm)."""
    r = jnp.sqrt(jnp.sum((x[FIRST] - x[SECOND]) ** 2, axis=-1)) * length
    return 0.5 * stiffness * jnp.sum((r - REST) ** 2)


make = functools.partial(targets.from_jax, name="springs", positions=STRUCTURE, temperature=300.0)
SYMBOLS = ["C", "H", "F", "O"]


@pytest.mark.parametrize(
    ("energy_unit", "kj", "length_unit", "nm"),
    [
        ("kJ/mol", 1.0, "nm", 1.0),
        ("eV", 96.48533212331, "angstrom", 0.1),
        ("kcal/mol", 4.184, "angstrom", 0.1),
        ("hartree", 2625.4996394799, "bohr", 0.0529177210903),
        ("kT", KT, "nm", 1.0),
    ],
)
def test_units(energy_unit, kj, length_unit, nm):
    target = make(lambda x: springs(x, length=nm) / kj, SYMBOLS, energy_unit=energy_unit, length_unit=length_unit)
    x = STRUCTURE + 0.01 * np.random.default_rng(0).standard_normal((5, 4, 3))
    expected = np.array([float(springs(jnp.asarray(frame))) for frame in x]) / KT
    u, gradient = target.energies_and_gradients(jnp.asarray(x))
    exact = jax.vmap(jax.grad(lambda frame: springs(frame) / KT))(jnp.asarray(x))
    np.testing.assert_allclose(u, expected, rtol=1e-4)
    np.testing.assert_allclose(gradient, exact, rtol=1e-3, atol=1e-5 * np.abs(exact).max())
    assert target.units == "nm"
    assert target.temperature == 300.0
    assert target.elements == ("C", "H", "F", "O")
    assert target.fingerprint.startswith("springs(symbols='CHFO'")
    start = np.asarray(target.starting_positions(key=jax.random.key(0)))
    assert np.abs(start - (STRUCTURE - STRUCTURE.mean(axis=0))).max() < 0.02


def test_a_molecule_brings_what_the_function_does_not_know():
    pytest.importorskip("openmm")
    amber = targets.get("alanine-dipeptide")
    target = targets.from_jax(lambda x: KT * amber.energy(x), amber, energy_unit="kJ/mol", name="again")
    assert amber.structure is not None
    for name in ("classes", "reflections", "bonds", "elements", "chiral_centres", "temperature", "topology"):
        assert getattr(target, name) == getattr(amber, name), name
    np.testing.assert_allclose(target.energies(amber.structure[None]), amber.energies(amber.structure[None]), rtol=1e-4)
    # Too large a unit is told with what would fit.
    with pytest.raises(TargetError, match=r"rises 96 times as much as that of 'alanine_dipeptide'.*kJ/mol and nm"):
        targets.from_jax(lambda x: KT * amber.energy(x), amber, energy_unit="eV", name="again")
    # Another temperature is none of a unit's.
    targets.from_jax(lambda x: KT * amber.energy(x), amber, energy_unit="kJ/mol", name="hot", temperature=900.0)


def test_a_large_constant_is_taken_off():
    with pytest.warns(UserWarning, match="subtract a reference energy inside the function"):
        target = make(lambda x: springs(x) - 1e6, SYMBOLS, energy_unit="kJ/mol")
    assert "energies are relative to -999999." in target.about
    assert abs(float(target.energy(jnp.asarray(STRUCTURE)))) < 1.0
    given = make(lambda x: springs(x) - 1e3, SYMBOLS, energy_unit="kJ/mol", reference_energy=-1e3)
    assert "reference_energy=-1000.0" in given.fingerprint
    assert abs(float(given.energy(jnp.asarray(STRUCTURE)))) < 1e-3


def itself(x: Any) -> Any:
    r = jnp.sqrt(jnp.sum((x[:, None] - x[None]) ** 2, axis=-1))
    return jnp.sum((r - 0.15) ** 2)


@pytest.mark.parametrize(
    ("energy", "options", "said"),
    [
        (lambda x: x**2, {}, r"must return a scalar for one configuration of shape \(4, 3\), but returns shape \(4, 3\)"),
        (lambda x: springs(x)[None], {}, r"returns shape \(1,\)"),
        (lambda x: (springs(x), x), {}, "returns tuple"),
        (lambda x: jnp.sum(x).astype(int), {}, "returns int"),
        (lambda x: springs(x) * jnp.nan, {}, "is nan at the geometry; look at length_unit"),
        (lambda x: springs(x) / 0.0, {}, "at the geometry"),
        (itself, {}, r"gradient of the energy of target 'springs' is not finite at the geometry .atoms 0, 1, 2, 3.*root"),
        (lambda x: float(np.sum(np.asarray(x))), {}, "fails on positions of shape"),
        (lambda x: springs(x) + 1e3 * jnp.sum(x**2), {}, "when all particles are moved by 1"),
        (lambda x: springs(x) + 1e3 * jnp.sum((x[:, 0] - jnp.mean(x[:, 0])) ** 2), {}, "when the configuration is rotated"),
        (springs, {"classes": [0, 0, 1, 2]}, "when particles 0 and 1 change places"),
        (lambda x: springs(x) + 50 * jnp.linalg.det(10 * (x[1:] - x[:1])), {"reflections": True}, "when the configuration is reflected"),
        (springs, {"energy_unit": "kJ"}, "has energies in 'kJ'; did you mean 'kT' or 'kJ/mol'"),
        (springs, {"length_unit": "pm"}, "has lengths in 'pm'"),
        (springs, {"temperature": 0.0}, "must be a positive number of kelvin, got 0"),
        (springs, {"temperature": None}, "needs positions= .N, 3. in nm and temperature="),
        (springs, {"positions": STRUCTURE[:3]}, "4 symbols but positions of shape"),
        (springs, {"reference_energy": math.inf}, "must be a finite number"),
        (3.0, {}, "must be a function of positions"),
    ],
)
def test_faults(energy, options, said):
    with pytest.raises(TargetError, match=said) as caught:
        make(energy, SYMBOLS, **{"energy_unit": "kJ/mol", **options})
    assert "\n" not in str(caught.value)


def test_a_callback_has_no_derivative():
    def host(x: Any) -> np.ndarray:
        y = np.asarray(x)
        return np.asarray(np.sum(np.linalg.norm(y[:, None] - y[None], axis=-1)), y.dtype)

    def outside(x: Any) -> Any:
        return jax.pure_callback(host, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="sequential")

    with pytest.raises(TargetError, match="cannot be differentiated by JAX"):
        make(outside, SYMBOLS, energy_unit="kJ/mol")


class TestBatched:
    """Functions that take many configurations at once, in a worker."""

    @pytest.fixture
    def threads(self):
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            yield executor

    def test_one_call_for_many(self, threads):
        calls = []

        def many(x: np.ndarray) -> Any:
            calls.append(len(x))
            moved = x - x.mean(axis=1, keepdims=True)
            return 0.5 * np.sum(moved**2, axis=(1, 2)), moved

        target = targets.from_calculator(many, 4, 3, name="many", executor=threads, batched=True, workers=1)
        x = np.random.default_rng(0).standard_normal((40, 4, 3))
        calls.clear()
        u, gradient = target.energies_and_gradients(jnp.asarray(x))
        moved = x - x.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(u, 0.5 * np.sum(moved**2, axis=(1, 2)), rtol=1e-5)
        np.testing.assert_allclose(gradient, moved, atol=1e-5)
        # Four pieces for a worker.
        assert calls == [10, 10, 10, 10]

    def test_what_fails_costs_itself(self, threads):
        def many(x: np.ndarray) -> Any:
            if (np.abs(x) > 50).any():
                raise ValueError("too large")
            return 0.5 * np.sum((x - x.mean(axis=1, keepdims=True)) ** 2, axis=(1, 2))

        target = targets.from_calculator(
            many, 4, 3, name="many", executor=threads, batched=True, workers=1, start=lambda key: jax.random.normal(key, (4, 3))
        )
        x = np.random.default_rng(0).standard_normal((8, 4, 3))
        x[3] *= 1e3
        with pytest.warns(RuntimeWarning, match="too large"):
            u = np.asarray(target.energies(jnp.asarray(x)))
        assert np.isinf(u[3])
        assert np.isfinite(np.delete(u, 3)).all()
        assert targets.failures(target).failed == 1

    def test_another_shape(self, threads):
        with pytest.raises(TargetError, match=r"must have shape \(1,\), but have \(\)"):
            targets.from_calculator(lambda x: np.sum(x), 4, 3, name="many", executor=threads, batched=True, workers=1)

    def test_calculators_of_ase(self, threads):
        calculators = pytest.importorskip("ase.calculators.calculator")
        counts = {"one": 0, "many": []}

        class Springs(calculators.Calculator):
            implemented_properties = ("energy", "forces")

            def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = ()) -> None:
                super().calculate(atoms, properties, system_changes)
                counts["one"] += 1
                energies, forces = self.evaluate_batch(self.atoms.positions[None], count=False)
                self.results = {"energy": energies[0], "forces": forces[0]}

            def evaluate_batch(self, positions: np.ndarray, count: bool = True) -> Any:
                if count:
                    counts["many"].append(len(positions))
                moved = positions - positions.mean(axis=1, keepdims=True)
                return 0.5 * np.sum(moved**2, axis=(1, 2)), -moved

        target = targets.from_ase(Springs, SYMBOLS, positions=STRUCTURE, temperature=300.0, name="springs", executor=threads, workers=1)
        counts["one"] = 0
        x = 0.1 * np.random.default_rng(0).standard_normal((16, 4, 3))
        u, gradient = target.energies_and_gradients(jnp.asarray(x))
        moved = 10.0 * (x - x.mean(axis=1, keepdims=True))
        kt = KT / 96.48533212331
        np.testing.assert_allclose(u, 0.5 * np.sum(moved**2, axis=(1, 2)) / kt, rtol=1e-4)
        np.testing.assert_allclose(gradient, 10.0 * moved / kt, rtol=1e-3, atol=1e-2)
        assert counts["one"] == 0
        assert counts["many"][-4:] == [4, 4, 4, 4]


class TestPage:
    """The code of docs/potentials.md."""

    PAGE = (Path(__file__).parents[2] / "docs" / "potentials.md").read_text(encoding="utf-8")
    BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)

    def test_a_pair_potential(self):
        found: dict[str, Any] = {"np": np, "jnp": jnp}
        exec(self.BLOCKS[1], found)
        triangle = 0.382 * np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, np.sqrt(0.75), 0.0]])
        target = targets.from_jax(
            found["by_hand"],
            ["Ar"] * 3,
            energy_unit="eV",
            length_unit="angstrom",
            positions=triangle,
            temperature=40.0,
            classes=[0, 0, 0],
            reflections=True,
            name="argon",
        )
        # Three pairs at their minimum, and the spring.
        kt = KT * 40.0 / 300.0 / 96.48533212331
        spring = 0.5e-4 * 100.0 * np.sum((triangle - triangle.mean(axis=0)) ** 2)
        assert float(target.energy(jnp.asarray(triangle))) == pytest.approx((-3 * 0.0104 + spring) / kt, rel=2e-3)

    def test_with_jax_md(self):
        pytest.importorskip("jax_md")
        found: dict[str, Any] = {}
        exec(self.BLOCKS[0], found)
        exec(self.BLOCKS[1], found)
        target, x = found["target"], 10.0 * found["triangle"]
        assert float(found["argon"](jnp.asarray(x))) == pytest.approx(float(found["by_hand"](jnp.asarray(x))), rel=1e-4)
        assert target.classes == (0, 0, 0)

    @pytest.mark.slow
    def test_a_network(self, tmp_path, monkeypatch):
        pytest.importorskip("openmm")
        monkeypatch.chdir(tmp_path)
        tutorial = (Path(__file__).parents[2] / "docs" / "molecule.md").read_text(encoding="utf-8")
        (tmp_path / "nma.pdb").write_text(re.findall(r"^```pdb\n(.*?)^```$", tutorial, flags=re.MULTILINE | re.DOTALL)[0])
        code, count = re.subn(
            r"^STEPS, FRAMES = .*$", "STEPS, FRAMES = 400, 200", self.BLOCKS[2].replace("steps=200", "steps=60"), flags=re.MULTILINE
        )
        assert count == 1
        found: dict[str, Any] = {}
        # As it is for users.
        with jax.numpy_rank_promotion("allow"):
            exec(code, found)
        assert found["explained"] > 0.9
        network, amber = found["network"], found["amber"]
        assert network.classes == amber.classes
        assert network.fingerprint != amber.fingerprint
