"""Force fields compiled to JAX against OpenMM's Reference platform: every force by itself, on random parameters and frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow.chemistry.force_field import compile_system
from boltzflow.chemistry.force_field.expressions import Expression
from boltzflow.errors import TargetError

mm = pytest.importorskip("openmm")
N = 9
# Compiling without optimisation takes a third less time.
FAST = {"xla_backend_optimization_level": 0}


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def frames(n: int = 4, *, seed: int = 0, size: float = 0.3) -> np.ndarray:
    """Random places in nm that are not too near to each other."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < n:
        x = rng.normal(size=(N, 3)) * size
        if np.linalg.norm(x[:, None] - x[None] + 9.0 * np.eye(N)[..., None], axis=-1).min() > 0.1:
            found.append(x)
    return np.array(found)


def by_openmm(system, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies in kJ/mol and forces in kJ/mol/nm by the Reference platform."""
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    energies, forces = [], []
    for x in positions:
        context.setPositions(x)
        state = context.getState(getEnergy=True, getForces=True)
        energies.append(state.getPotentialEnergy()._value)
        forces.append(state.getForces(asNumpy=True)._value)
    return np.array(energies), np.array(forces)


def compiled(field, positions: np.ndarray | jax.Array):
    """Energies and gradients of a batch."""
    return jax.jit(jax.vmap(jax.value_and_grad(field.energy)), compiler_options=FAST)(jnp.asarray(positions))


def system_of(*forces):
    system = mm.System()
    for _ in range(N):
        system.addParticle(12.0)
    for force in forces:
        system.addForce(force)
    return system


def chosen(rng, atoms: int) -> list[int]:
    return [int(i) for i in rng.permutation(N)[:atoms]]


def harmonic_bonds(rng):
    force = mm.HarmonicBondForce()
    for _ in range(5):
        force.addBond(*chosen(rng, 2), rng.uniform(0.1, 0.3), rng.uniform(10, 1000))
    return force


def harmonic_angles(rng):
    force = mm.HarmonicAngleForce()
    for _ in range(5):
        force.addAngle(*chosen(rng, 3), rng.uniform(1, 3), rng.uniform(10, 500))
    return force


def periodic_torsions(rng):
    force = mm.PeriodicTorsionForce()
    for _ in range(4):
        atoms = chosen(rng, 4)
        for n in rng.permutation(6)[:3] + 1:
            force.addTorsion(*atoms, int(n), rng.choice([0.0, np.pi, 0.7]), rng.uniform(-5, 5))
    return force


def ryckaert_bellemans(rng):
    force = mm.RBTorsionForce()
    for _ in range(4):
        force.addTorsion(*chosen(rng, 4), *rng.normal(size=6))
    return force


def cmap(rng):
    force = mm.CMAPTorsionForce()
    for size in (6, 8):
        force.addMap(size, rng.normal(size=size**2))
    for i in range(4):
        force.addTorsion(i % 2, *chosen(rng, 4), *chosen(rng, 4))
    return force


def nonbonded(rng):
    force = mm.NonbondedForce()
    for _ in range(N):
        force.addParticle(rng.normal(), rng.uniform(0.05, 0.2), rng.uniform(0, 1))
    force.addException(0, 1, 0.0, 1.0, 0.0)
    force.addException(4, 2, 0.3, 0.12, 0.7)
    return force


def born(rng):
    force = mm.GBSAOBCForce()
    for _ in range(N):
        force.addParticle(rng.normal(), rng.uniform(0.05, 0.2), rng.uniform(0.6, 0.9))
    force.setSolventDielectric(70.0)
    return force


def custom_bonds(rng):
    force = mm.CustomBondForce("k*(r-lambda)^4 + shared*step(r-0.3)*exp(-r^2/0.1)")
    for name in ("k", "lambda"):
        force.addPerBondParameter(name)
    force.addGlobalParameter("shared", 2.5)
    for _ in range(5):
        force.addBond(*chosen(rng, 2), [rng.uniform(1, 10), rng.uniform(0.1, 0.3)])
    return force


def custom_angles(rng):
    force = mm.CustomAngleForce("k*square(theta-t0)*-2^-2; t0=min(1, theta0)")
    for name in ("k", "theta0"):
        force.addPerAngleParameter(name)
    for _ in range(5):
        force.addAngle(*chosen(rng, 3), [rng.uniform(1, 10), rng.uniform(0.5, 3)])
    return force


def custom_torsions(rng):
    force = mm.CustomTorsionForce("k*(1-cos(dt))^2+0.1*theta; dt=theta-theta0")
    for name in ("k", "theta0"):
        force.addPerTorsionParameter(name)
    for _ in range(5):
        force.addTorsion(*chosen(rng, 4), [rng.uniform(1, 10), rng.uniform(0.5, 3)])
    return force


def custom_pairs(rng):
    force = mm.CustomNonbondedForce("q1*q2*exp(-r/0.2)/r + table(kind1, kind2)*spline(r) + select(kind1, 0, 1)*r")
    for name in ("q", "kind"):
        force.addPerParticleParameter(name)
    force.addTabulatedFunction("table", mm.Discrete2DFunction(2, 3, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    force.addTabulatedFunction("spline", mm.Continuous1DFunction(list(rng.normal(size=7)), 0.2, 0.9))
    for i in range(N):
        force.addParticle([rng.normal(), i % 2])
    force.addExclusion(3, 5)
    return force


def custom_born(rng):
    force = mm.CustomGBForce()
    for name in ("q", "radius", "scale"):
        force.addPerParticleParameter(name)
    force.addGlobalParameter("strength", 30.0)
    pair, single, all_pairs = force.ParticlePair, force.SingleParticle, force.ParticlePairNoExclusions
    force.addComputedValue("I", "scale2*max(0, 0.9-r)^2/(r+radius1)", all_pairs)
    force.addComputedValue("B", "radius*(1+tanh(I))", single)
    force.addEnergyTerm("strength*q^2/B", single)
    force.addEnergyTerm("-strength*q1*q2/f; f=sqrt(r^2+B1*B2*exp(-r^2/(4*B1*B2)))", all_pairs)
    force.addEnergyTerm("I1*I2*r", pair)
    for _ in range(N):
        force.addParticle([rng.normal(), rng.uniform(0.05, 0.2), rng.uniform(0.6, 0.9)])
    force.addExclusion(0, 7)
    return force


def nonbonded_cut(rng):
    force = nonbonded(rng)
    force.setNonbondedMethod(force.CutoffNonPeriodic)
    force.setCutoffDistance(0.6)
    force.setReactionFieldDielectric(20.0)
    # A pair of its own beyond the cut-off in some frames, which exceptions do not have.
    force.addException(5, 6, 0.9, 0.3, 0.5)
    return force


def nonbonded_switched(rng):
    force = nonbonded_cut(rng)
    force.setReactionFieldDielectric(1.0)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(0.2)
    return force


def born_cut(rng):
    force = born(rng)
    force.setNonbondedMethod(force.CutoffNonPeriodic)
    force.setCutoffDistance(0.6)
    return force


def custom_pairs_cut(rng):
    force = custom_pairs(rng)
    # Symmetric: OpenMM's list of neighbours has pairs in any order.
    force.setEnergyFunction("q1*q2*exp(-r/0.2)/r + (kind1+kind2)*spline(r) + select(kind1+kind2, 0, 1)*r")
    force.setNonbondedMethod(force.CutoffNonPeriodic)
    force.setCutoffDistance(0.7)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(0.3)
    return force


def custom_born_cut(rng):
    force = custom_born(rng)
    force.setNonbondedMethod(force.CutoffNonPeriodic)
    force.setCutoffDistance(0.6)
    return force


FORCES = (
    harmonic_bonds,
    harmonic_angles,
    periodic_torsions,
    ryckaert_bellemans,
    cmap,
    nonbonded,
    born,
    custom_bonds,
    custom_angles,
    custom_torsions,
    custom_pairs,
    custom_born,
    nonbonded_cut,
    nonbonded_switched,
    born_cut,
    custom_pairs_cut,
    custom_born_cut,
)


@pytest.mark.parametrize("make", FORCES, ids=lambda make: make.__name__)
@pytest.mark.usefixtures("double")
def test_every_force_is_that_of_openmm(make):
    system = system_of(make(np.random.default_rng(1)))
    positions = frames()
    energies, forces = by_openmm(system, positions)
    found, gradients = compiled(compile_system(system), positions)
    np.testing.assert_allclose(found, energies, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(-gradients, forces, rtol=1e-5, atol=1e-5 * np.abs(forces).max())
    # A force that did nothing would agree with itself.
    assert np.ptp(energies) > 1e-2


@pytest.mark.usefixtures("double")
class TestBatches:
    def test_single_configurations_and_chunks_agree(self):
        rng = np.random.default_rng(0)
        field = compile_system(system_of(harmonic_angles(rng), nonbonded(rng)))
        positions = jnp.asarray(frames(70, seed=2))
        together, gradients = compiled(field, positions)
        for i in (63, 64, 69):
            alone, gradient = compiled(field, positions[i : i + 1])
            alone, gradient = alone[0], gradient[0]
            np.testing.assert_allclose(together[i], alone, rtol=1e-12)
            np.testing.assert_allclose(gradients[i], gradient, rtol=1e-9, atol=1e-9 * np.abs(gradient).max())
        # Batches of batches, as of chains at several temperatures.
        twice = jax.jit(jax.vmap(jax.vmap(field.energy)), compiler_options=FAST)(positions.reshape(7, 10, N, 3))
        np.testing.assert_allclose(twice.ravel(), together, rtol=1e-12)

    def test_the_gradient_is_the_derivative(self):
        rng = np.random.default_rng(0)
        field = compile_system(system_of(nonbonded(rng), periodic_torsions(rng), born(rng)))
        x, direction = frames(1)[0], rng.normal(size=(N, 3))
        slope = (field.energy(jnp.asarray(x + 1e-6 * direction)) - field.energy(jnp.asarray(x - 1e-6 * direction))) / 2e-6
        np.testing.assert_allclose(np.sum(jax.grad(field.energy)(jnp.asarray(x)) * direction), slope, rtol=1e-6)


def test_single_precision_is_near():
    rng = np.random.default_rng(0)
    system = system_of(*(make(rng) for make in FORCES[:6]), born(rng))
    positions = frames(8)
    energies, forces = by_openmm(system, positions)
    found, gradients = compiled(compile_system(system), positions.astype(np.float32))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, energies, rtol=1e-5, atol=2e-4)
    np.testing.assert_allclose(-gradients, forces, rtol=1e-3, atol=1e-4 * np.abs(forces).max())


def test_coincident_atoms_have_an_infinite_energy_and_finite_gradients():
    rng = np.random.default_rng(0)
    field = compile_system(system_of(harmonic_bonds(rng), harmonic_angles(rng), periodic_torsions(rng), nonbonded(rng), born(rng)))
    positions = frames(2).astype(np.float32)
    positions[0, 4] = positions[0, 3]
    energies, gradients = compiled(field, positions)
    assert not energies[0] < 1e12
    assert np.isfinite(energies[1])
    assert np.isfinite(gradients).all()


class TestWhatCannotBeCompiled:
    def test_an_unknown_force_is_named(self):
        with pytest.raises(TargetError, match=r"CustomExternalForce.*openmm"):
            compile_system(system_of(mm.CustomExternalForce("x^2")))

    def test_constraints(self):
        system = system_of()
        system.addConstraint(0, 1, 0.1)
        with pytest.raises(TargetError, match="1 constraints.*constraints=None"):
            compile_system(system)

    def test_virtual_sites(self):
        system = system_of()
        system.setParticleMass(2, 0.0)
        system.setVirtualSite(2, mm.TwoParticleAverageSite(0, 1, 0.5, 0.5))
        with pytest.raises(TargetError, match="virtual sites"):
            compile_system(system)

    def test_a_periodic_box(self):
        force = nonbonded(np.random.default_rng(0))
        force.setNonbondedMethod(mm.NonbondedForce.PME)
        with pytest.raises(TargetError, match="periodic box.*NoCutoff"):
            compile_system(system_of(force))

    def test_a_periodic_cut_off(self):
        force = nonbonded(np.random.default_rng(0))
        force.setNonbondedMethod(mm.NonbondedForce.CutoffPeriodic)
        with pytest.raises(TargetError, match="periodic box.*CutoffNonPeriodic"):
            compile_system(system_of(force))

    def test_a_switch_that_does_not_end(self):
        force = nonbonded_switched(np.random.default_rng(0))
        force.setSwitchingDistance(0.6)
        with pytest.raises(TargetError, match="switches from 0.6 nm on and ends at 0.6 nm"):
            compile_system(system_of(force))

    @pytest.mark.parametrize("text", ["r**", "unknown(r)", "missing*r", "r if r else 1"])
    def test_expressions_that_make_no_sense(self, text):
        with pytest.raises(TargetError, match="expression"):
            Expression(text)({"r": 1.0})


def test_the_branch_that_is_not_chosen_leaves_the_gradient_alone():
    """As for the sulfur of OpenMM's GBn2 near a hydrogen, where the other branch is the logarithm of a negative number."""
    expression = Expression("a*select(step(r-2), log(r-2)*b, r^2); b=c")

    def value(r: jax.Array, a: jax.Array) -> jax.Array:
        return jnp.sum(expression({"r": r, "a": a, "c": np.array([[5.0]])}))

    r, a = jnp.array([[1.0, 3.0], [1.5, 4.0]]), jnp.array([[1.0], [2.0]])
    by_r, by_a = jax.jit(jax.grad(value, (0, 1)))(r, a)
    np.testing.assert_allclose(by_r, [[2.0, 5.0], [6.0, 5.0]])
    np.testing.assert_allclose(by_a, [[1.0], [2.25 + 5.0 * np.log(2.0)]], rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-2^2", -4.0),
        ("2^3^2", 512.0),
        ("1e-3*x", 2e-3),
        ("a+b; b=2*a; a=x", 6.0),
        ("2^-x", 0.25),
        ("select(x-2, 5, 7)", 7.0),
        ("lambda*is", 12.0),
    ],
)
def test_expressions_follow_the_rules_of_openmm(text, value):
    assert float(Expression(text)({"x": 2.0, "lambda": 3.0, "is": 4.0})) == pytest.approx(value)


@pytest.mark.usefixtures("double")
class TestCutOffs:
    """What pairs far apart, just inside and just beyond a cut-off give."""

    @staticmethod
    def two(force):
        system = mm.System()
        for _ in range(2):
            system.addParticle(12.0)
        system.addForce(force)
        return system

    def test_beyond_there_is_neither_energy_nor_force(self):
        force = mm.NonbondedForce()
        for charge in (1.0, -0.5):
            force.addParticle(charge, 0.3, 1.0)
        force.setNonbondedMethod(force.CutoffNonPeriodic)
        force.setCutoffDistance(0.5)
        field = compile_system(self.two(force))
        distances = [0.4, 0.4999, 0.5001, 3.0, 1e6]
        positions = np.zeros((len(distances), 2, 3))
        positions[:, 1, 0] = distances
        energies, gradients = compiled(field, positions)
        # The reaction field takes the charges to 0 at the cut-off, the rest jumps there.
        assert energies[1] == pytest.approx(4.0 * ((0.3 / 0.4999) ** 12 - (0.3 / 0.4999) ** 6), abs=0.02)
        assert np.all(np.asarray(energies[2:]) == 0.0)
        assert np.all(np.asarray(gradients[2:]) == 0.0)
        assert np.abs(gradients[0]).max() > 1.0

    def test_an_expression_that_would_overflow_beyond_leaves_the_gradient_alone(self):
        force = mm.CustomNonbondedForce("exp(r^4) + sqrt(2-r)")
        for _ in range(2):
            force.addParticle([])
        force.setNonbondedMethod(force.CutoffNonPeriodic)
        force.setCutoffDistance(1.0)
        positions = np.zeros((2, 2, 3))
        positions[:, 1, 2] = [0.5, 1e3]
        energies, gradients = compiled(compile_system(self.two(force)), positions)
        np.testing.assert_allclose(energies, [np.exp(0.5**4) + np.sqrt(1.5), 0.0], rtol=1e-12)
        assert np.isfinite(gradients).all()
