"""Expressions of custom forces: read as OpenMM reads them, compared with OpenMM itself, and refused where it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow.chemistry.force_field import compile_system
from boltzflow.chemistry.force_field.expressions import Expression
from boltzflow.chemistry.force_field.parser import ARITY
from boltzflow.errors import TargetError

pytest.importorskip("openmm")
import openmm  # noqa: E402

NAMES = {"k": 1.7, "r0": 0.4, "ε": 0.6, "σ": 1.3, "k'": -2.1, "lambda": 0.8, "a.b": 1.1, "x_1": 3.0}
DISTANCES = (0.35, 0.9, 1.6)


def by_openmm(text: str, r: float) -> tuple[float, float]:
    """Energy and derivative of a CustomBondForce."""
    system = openmm.System()
    for _ in range(2):
        system.addParticle(1.0)
    force = openmm.CustomBondForce(text)
    for name in NAMES:
        force.addPerBondParameter(name)
    force.addBond(0, 1, list(NAMES.values()))
    system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions([[0, 0, 0], [r, 0, 0]])
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, -state.getForces(asNumpy=True)._value[1, 0]


def here(text: str, r: float) -> tuple[float, float]:
    expression = Expression(text)
    with jax.enable_x64(True):
        shared = {name: np.array([value]) for name, value in NAMES.items()}
        value, slope = jax.value_and_grad(lambda x: jnp.sum(jnp.broadcast_to(expression({**shared, "r": x}), (1,))))(jnp.array([r]))
    return float(value), float(slope[0])


class Writer:
    """Writes random expressions with random white space."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def space(self) -> str:
        return str(self.random.choice(["", "", "", " ", "\n", "\t ", "\r\n  "]))

    def text(self) -> str:
        definitions = ["d1", "δ", "r0", "d'"][: int(self.random.integers(0, 5))]
        parts = [self.value(3, [*NAMES, "r", *definitions])]
        for i, name in enumerate(definitions):
            # Each knows those behind it, and variables of its own name.
            parts.append(f"{self.space()}{name}{self.space()}={self.value(2, [*NAMES, 'r', *definitions[i + 1 :]])}")
        return ";".join(parts) + str(self.random.choice(["", ";", " ; "]))

    def value(self, depth: int, names: list[str]) -> str:
        def part() -> str:
            return self.value(depth - 1, names)

        kind = int(self.random.integers(0, 9)) if depth > 0 else int(self.random.integers(0, 3))
        if kind < 2:
            written = str(self.random.choice(names))
        elif kind == 2:
            written = str(self.random.choice(["2", "03", "0.5", ".25", "1.", "1e-1", "2E+0", "007", "3", "1.5e0"]))
        elif kind < 6:
            sign = str(self.random.choice(list("+-*/^--")))
            written = f"{part()}{sign}{part()}"
        elif kind == 6:
            written = f"({part()})"
        elif kind == 7:
            written = f"-{part()}"
        else:
            name = str(self.random.choice(sorted(ARITY)))
            written = f"{name}({','.join(part() for _ in range(ARITY[name]))})"
        return self.space() + written + self.space()


def test_random_expressions_are_those_of_openmm():
    compared = 0
    for seed in range(70):
        text = Writer(seed).text()
        try:
            expected = [by_openmm(text, r) for r in DISTANCES]
        except openmm.OpenMMException:
            # A sign in front of a sign, or a domain error while OpenMM simplifies.
            continue
        for r, (u, slope) in zip(DISTANCES, expected, strict=True):
            if not (np.isfinite([u, slope]).all() and max(abs(u), abs(slope)) < 1e6):
                continue
            found = here(text, r)
            assert found[0] == pytest.approx(u, rel=1e-7, abs=1e-7), (text, r)
            assert found[1] == pytest.approx(slope, rel=1e-5, abs=1e-5), (text, r)
            compared += 1
    assert compared > 100


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x+y; x=y+1; y=2", 5.0),
        ("x+y;y=x;x=2;x=5", 4.0),
        ("r; r=r+5", 7.0),
        ("exp; exp=3", 3.0),
        ("2^-r*3", 0.75),
        ("-r^2", -4.0),
        ("2^3^2", 512.0),
        ("r - - 1", 3.0),
        ("0*log(-r)+01*r", 2.0),
        ("k *\n (r\n-σ) + ε';\n ε'\t= k'\r\n/ 02", 1.7 * 0.7 - 1.05),
        ("r;;", 2.0),
    ],
)
def test_values(text: str, value: float):
    assert here(text, 2.0)[0] == pytest.approx(value)
    assert by_openmm(text, 2.0)[0] == pytest.approx(value), "so says OpenMM"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x; x=x+1", "uses 'x', which the force does not define"),
        ("a; a=b; b=a", "uses 'a'"),
        ("x*y; y=2; x=y+1", "uses 'y'"),
        ("+r", r"there is '\+' where a value is missing"),
        ("sin (r)", r"no operator before '\('"),
        ("2r", "no operator before 'r'"),
        ("1.2.3", "'1.2.3' is no number"),
        (".", "'.' is no number"),
        ("pow(r,2)", "no function 'pow'"),
        ("SQRT(r)", "no function 'SQRT'"),
        ("min(r)", "'min' takes 2 arguments, not 1"),
        ("(r", "brackets do not match"),
        ("r)", "no operator before"),
        ("", "ends where a value is missing"),
        ("r*", "ends where a value is missing"),
        ("r; =3", "must be a definition"),
        ("r; x", "must be a definition"),
        ("r\u00a0+1", "which the force does not define"),
        ("(" * 5000 + "r" + ")" * 5000, "nested too deeply"),
    ],
)
def test_what_openmm_refuses_is_refused_in_a_sentence(text: str, message: str):
    with pytest.raises(TargetError, match=message):
        here(text, 2.0)
    if text != "." and len(text) < 1000:  # OpenMM takes a lone point for 0
        with pytest.raises(openmm.OpenMMException):
            by_openmm(text, 2.0)


def system(force) -> openmm.System:
    made = openmm.System()
    for _ in range(5):
        made.addParticle(12.0)
    made.addForce(force)
    return made


def forces():
    angle = openmm.CustomAngleForce("κ*(θ-θ0)^2 ;\n θ = theta +\n 01*0; θ0=1.9")
    angle.addPerAngleParameter("κ")
    angle.addAngle(0, 1, 2, [30.0])
    angle.addAngle(1, 2, 3, [20.0])
    torsion = openmm.CustomTorsionForce("k'\n*(1+cos(n*theta - φ'));φ'=0.7")
    torsion.addPerTorsionParameter("k'")
    torsion.addGlobalParameter("n", 3)
    torsion.addTorsion(0, 1, 2, 3, [4.0])
    pairs = openmm.CustomNonbondedForce("ε*((σ/r)^6 \n- (σ/r)^3) ; σ=0.5*(σ1+σ2); ε = sqrt(ε1\t*ε2)")
    for name in ("σ", "ε"):
        pairs.addPerParticleParameter(name)
    for i in range(5):
        pairs.addParticle([0.1 + 0.01 * i, 1.0 + 0.3 * i])
    pairs.addExclusion(0, 1)
    born = openmm.CustomGBForce()
    born.addPerParticleParameter("q")
    born.addComputedValue("Σ", "q2*exp(\n-r)", openmm.CustomGBForce.ParticlePair)
    born.addComputedValue("β", "1/(01+Σ*Σ) ; Σ=Σ+0", openmm.CustomGBForce.SingleParticle)
    born.addEnergyTerm("-q1*q2*f;\nf=1/sqrt(r^2+β1*β2)", openmm.CustomGBForce.ParticlePair)
    for i in range(5):
        born.addParticle([0.2 * i - 0.3])
    return {"angles": angle, "torsions": torsion, "pairs": pairs, "born": born}


@pytest.mark.parametrize("kind", ["angles", "torsions", "pairs", "born"])
def test_every_kind_of_force(kind: str):
    made = system(forces()[kind])
    context = openmm.Context(made, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    generator = np.random.default_rng(3)
    function = jax.value_and_grad(compile_system(made).energy)
    for scale in (0.2, 0.5):
        x = scale * generator.standard_normal((5, 3))
        context.setPositions(x)
        state = context.getState(energy=True, forces=True)
        with jax.enable_x64(True):
            u, gradient = function(jnp.asarray(x))
        assert float(u) == pytest.approx(state.getPotentialEnergy()._value, rel=1e-6)
        expected = -state.getForces(asNumpy=True)._value
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
