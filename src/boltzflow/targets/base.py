"""What every target is: a reduced energy with its symmetries, units and fingerprint."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.errors import TargetError
from boltzflow.targets.chirality import ChiralCentre

BOLTZMANN = 0.00831446261815324
"""Boltzmann's constant in kJ/mol/K."""


@dataclasses.dataclass(frozen=True)
class ExactValues:
    """Known values of a target, for comparison; None where unknown.

    Attributes:
        log_z: log of the partition function on the zero-CoM subspace.
        mean_energy: mean reduced energy.
        entropy: differential entropy in nats on the zero-CoM subspace, `mean_energy + log_z`; no NLL can be below it.
        log_z_error: standard error of log Z; 0 where it is exact in all digits given.
        entropy_error: standard error of the entropy likewise.
        source: how the values were obtained.
    """

    log_z: float | None = None
    mean_energy: float | None = None
    entropy: float | None = None
    log_z_error: float = 0.0
    entropy_error: float = 0.0
    source: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A Boltzmann density exp(-u(x)) of N particles in D dimensions on the zero-CoM subspace.

    Attributes:
        name: a short name; part of the fingerprint.
        n_particles: N.
        dimension: D.
        energy_function: reduced energy u = U/kT of one configuration, (N, D) -> (); a JAX function. It must not depend on the
            centre of mass. None: the density is known by `frames` alone, and nothing can be reweighted to it.
        classes: for each particle the number of its interchangeability class; particles of one class may be permuted
            without changing u. Also the particle's type as a flow sees it.
        reflections: whether u is invariant under reflections as well as rotations.
        units: "reduced" for toy systems, "nm" for molecules ("angstrom" for QM9).
        temperature: in kelvin, None in reduced units.
        parameters: what else distinguishes this target from others of its name; part of the fingerprint.
        start: makes a starting configuration (N, D) for a sampler from a key.
        exact: values known exactly.
        bonds: pairs of bonded particles; empty where there are none.
        frames: reads the frames (n, N, D) of a density without energy.
        topology: the `openmm.app.Topology` of a molecule, for trajectory formats and dihedrals.
        system: XML of the `openmm.System` of a molecule, so that a run can keep it; empty where there is none.
        structure: (N, 3) a minimum of the energy of a molecule, in nm.
        energies_by: what computes the energies of a molecule, "compiled" or "openmm".
        chiral_centres: atoms with a hand, and the hand that is meant; `chirality.hands` tells that of samples.
    """

    name: str
    n_particles: int
    dimension: int
    energy_function: Callable[[Float[Array, "N D"]], Float[Array, ""]] | None
    classes: tuple[int, ...]
    reflections: bool = True
    units: str = "reduced"
    temperature: float | None = None
    parameters: Mapping[str, float | int | str | bool] = dataclasses.field(default_factory=dict)
    start: Callable[[PRNGKeyArray], Float[Array, "N D"]] | None = None
    exact: ExactValues = ExactValues()
    bonds: tuple[tuple[int, int], ...] = ()
    frames: Callable[[], Float[np.ndarray, "n N D"]] | None = None
    topology: Any = None
    system: str = ""
    structure: Float[np.ndarray, "N 3"] | None = None
    energies_by: str = "compiled"
    chiral_centres: tuple[ChiralCentre, ...] = ()

    def __post_init__(self) -> None:
        if self.n_particles < 2 or self.dimension < 1:
            raise TargetError(
                f"target {self.name!r} needs at least 2 particles and 1 dimension, got {self.n_particles} and {self.dimension}."
            )
        if len(self.classes) != self.n_particles:
            raise TargetError(
                f"target {self.name!r} has {self.n_particles} particles but {len(self.classes)} interchangeability classes; "
                "give one class number per particle."
            )

    def __repr__(self) -> str:
        """In one line: the fingerprint, and what there is of a molecule."""
        facts = [] if self.has_energy else ["no energy"]
        facts += [f"{len(self.bonds)} bonds"] if self.bonds else []
        facts += [f"{len(self.chiral_centres)} chiral centres"] if self.chiral_centres else []
        return f"<Target {', '.join([self.fingerprint, *facts])}>"

    @property
    def has_energy(self) -> bool:
        """Whether there is a density to reweight to."""
        return self.energy_function is not None

    @property
    def degrees_of_freedom(self) -> int:
        """(N-1)·D, the dimension of the zero-CoM subspace."""
        return (self.n_particles - 1) * self.dimension

    @property
    def fingerprint(self) -> str:
        """Name, parameters, units and temperature in one line; stored with data, checkpoints and samples."""
        parameters = ", ".join(f"{key}={self.parameters[key]!r}" for key in sorted(self.parameters))
        temperature = "" if self.temperature is None else f", T={self.temperature!r} K"
        return f"{self.name}({parameters}) N={self.n_particles} D={self.dimension} [{self.units}{temperature}]"

    def energy(self, positions: Float[Array, "N D"]) -> Float[Array, ""]:
        """Reduced energy of one configuration; NaN where there is none."""
        if self.energy_function is None:
            return jnp.full((), jnp.nan, positions.dtype)
        return self.energy_function(positions)

    @functools.cached_property
    def energies(self) -> Callable[[Float[Array, "B N D"]], Float[Array, " B"]]:
        """Reduced energies of a batch, (B, N, D) -> (B,), compiled."""
        return jax.jit(jax.vmap(self.energy))

    @functools.cached_property
    def energies_and_gradients(
        self,
    ) -> Callable[[Float[Array, "B N D"]], tuple[Float[Array, " B"], Float[Array, "B N D"]]]:
        """Reduced energies and their gradients of a batch, compiled."""
        return jax.jit(jax.vmap(jax.value_and_grad(self.energy)))

    def starting_positions(self, *, key: PRNGKeyArray) -> Float[Array, "N D"]:
        """A configuration to start a sampler from; a unit Gaussian on the zero-CoM subspace if the target names none."""
        if self.start is not None:
            return self.start(key)
        positions = jax.random.normal(key, (self.n_particles, self.dimension))
        return positions - jnp.mean(positions, axis=0)

    def check_energy(self) -> None:
        """Checks on one starting configuration that the energy is a finite real scalar that does not feel translations.

        Raises:
            TargetError: says what the energy function returned instead.
        """
        positions = self.starting_positions(key=jax.random.key(0))
        try:
            value = jax.eval_shape(self.energy, positions)
        except Exception as error:
            raise TargetError(
                f"the energy function of target {self.name!r} fails on positions of shape {positions.shape}: "
                f"{(str(error).splitlines() or [type(error).__name__])[0]}"
            ) from error
        if not hasattr(value, "shape") or value.shape != ():
            shape = getattr(value, "shape", type(value).__name__)
            raise TargetError(
                f"the energy function of target {self.name!r} must return a scalar for one configuration of shape "
                f"{positions.shape}, but returns shape {shape}; write it for one configuration, boltzflow batches it."
            )
        u = np.asarray(self.energies(jnp.stack([positions, positions + 1.0])))
        if not np.all(np.isfinite(u)):
            raise TargetError(
                f"the energy function of target {self.name!r} returns {u[0]} on a starting configuration; pass `start=` with a "
                "configuration of finite energy, or mend the function."
            )
        if abs(u[1] - u[0]) > 1e-3 * max(1.0, abs(u[0])):
            raise TargetError(
                f"the energy of target {self.name!r} changes by {u[1] - u[0]:.3g} when all particles are moved by 1; densities live "
                "on the zero-CoM subspace, so subtract the mean over particles inside the energy."
            )
