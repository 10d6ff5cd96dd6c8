"""What every target is: a reduced energy with its symmetries, units and fingerprint."""

import contextlib
import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow import display
from boltzflow.chemistry.chirality import ChiralCentre
from boltzflow.errors import TargetError
from boltzflow.targets.invariance import DOUBLE_ROUNDING, Energies, Trial

BOLTZMANN = 0.00831446261815324
"""Boltzmann's constant in kJ/mol/K."""
UNITS = ("reduced", "nm", "angstrom")
"""Units of length that a target may have."""
# Configurations whose energies are computed together when symmetries are tried.
_BATCH = 32
# Of a sum of terms of both signs in single precision, relative to the sum.
_SINGLE_ROUNDING = 1e-5


@dataclasses.dataclass(frozen=True)
class ExactValues:
    """Known values of a target, for comparison; None where unknown.

    Example:
        >>> round(bf.targets.lennard_jones(13).exact.log_z, 1)
        59.9

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


class DerivedEnergy:
    """An energy made of another one, and computed where that one is: outside JAX if it is, with the same count of failures.

    Attributes:
        evaluator: that of the other energy, if it is outside JAX (`calculators.CalculatorEnergy`); else None.
    """

    def __init__(self, source: Callable[..., Any], energy: Callable[[Float[Array, "N D"]], Float[Array, ""]]) -> None:
        """The energy, and the one that it is made of.

        Args:
            source: the other energy.
            energy: reduced energy of one configuration, (N, D) -> ().
        """
        self.evaluator = getattr(source, "evaluator", None)
        self._energy = energy

    def __call__(self, positions: Float[Array, "N D"]) -> Float[Array, ""]:
        """Reduced energy of one configuration."""
        return self._energy(positions)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Target:
    """A Boltzmann density exp(-u(x)) of N particles in D dimensions on the zero-CoM subspace.

    Example:
        >>> target = bf.targets.double_well()
        >>> target.degrees_of_freedom, target.reflections
        (6, True)
        >>> target.energy(jnp.zeros((4, 2))).shape
        ()

    Attributes:
        name: a short name; part of the fingerprint.
        n_particles: N.
        dimension: D.
        energy_function: reduced energy u = U/kT of one configuration, (N, D) -> (); a JAX function. It must not depend on the
            centre of mass. None: the density is known by `frames` alone, and nothing can be reweighted to it.
        classes: for each particle the number of its interchangeability class; particles of one class may be permuted
            without changing u. Also the particle's type as a flow sees it.
        reflections: whether u is invariant under reflections as well as rotations.
        units: one of `UNITS`: "reduced" for toy systems, "nm" for molecules ("angstrom" for QM9).
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
        chiral_centres: chiral atoms, and the chirality that is meant; `chirality.chirality_signs` tells that of samples.
        elements: element symbol of each atom, "X" for what is none; empty where particles are no atoms.
        about: for people: what was found or decided when the target was made, such as its symmetries or an energy that was subtracted.
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
    elements: tuple[str, ...] = ()
    about: str = ""

    def __post_init__(self) -> None:
        if self.n_particles < 2 or self.dimension < 1:
            raise TargetError(
                f"target {self.name!r} needs at least 2 particles and 1 dimension, got {self.n_particles} and {self.dimension}."
            )
        if self.units not in UNITS:
            raise TargetError(f"target {self.name!r} has lengths in {self.units!r}; known are {', '.join(UNITS)}.")
        if len(self.classes) != self.n_particles:
            raise TargetError(
                f"target {self.name!r} has {self.n_particles} particles but {len(self.classes)} interchangeability classes; "
                "give one class number per particle."
            )

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
        """Name, parameters, units and temperature in one line; stored with data, checkpoints and samples.

        What a flow is built from besides (classes, reflections and bonds) is in a hash, where it is not the usual of toy systems: all
        particles alike, reflections, and no bonds.
        """
        about = {**self.parameters, **({"symmetry": self._symmetry} if self._symmetry else {})}
        parameters = ", ".join(f"{key}={about[key]!r}" for key in sorted(about))
        temperature = "" if self.temperature is None else f", T={self.temperature!r} K"
        return f"{self.name}({parameters}) N={self.n_particles} D={self.dimension} [{self.units}{temperature}]"

    @functools.cached_property
    def _symmetry(self) -> str:
        """8 hexadecimal digits of classes, reflections and bonds; empty for those of toy systems."""
        classes = [int(number) for number in self.classes]
        bonds = sorted((int(min(pair)), int(max(pair))) for pair in self.bonds)
        if len(set(classes)) == 1 and self.reflections and not bonds:
            return ""
        return hashlib.sha256(repr((classes, bool(self.reflections), bonds)).encode()).hexdigest()[:8]

    def energy(self, positions: Float[Array, "N D"]) -> Float[Array, ""]:
        """Reduced energy of one configuration; NaN where there is none.

        Args:
            positions: (N, D) in the target's units.
        """
        if self.energy_function is None:
            return jnp.full((), jnp.nan, positions.dtype)
        return self.energy_function(positions)

    def at_temperature(self, factor: float) -> "Target":
        """The same energy at another temperature.

        Args:
            factor: the temperature as a multiple of this target's.

        Raises:
            TargetError: if there is no energy, or the temperature is not positive.
        """
        if self.energy_function is None:
            raise TargetError(f"target {self.name!r} has no energy, so that nothing is known of it at another temperature.")
        if not (math.isfinite(factor) and factor > 0.0):
            raise TargetError(f"a temperature must be positive and finite, got {factor:g} times that of target {self.name!r}.")
        if factor == 1.0:
            return self
        own = self.energy_function
        energy = DerivedEnergy(own, lambda positions: own(positions) / factor)
        reduced = {} if self.temperature is not None else {"temperature": float(self.parameters.get("temperature", 1.0)) * factor}
        other = dataclasses.replace(
            self,
            energy_function=energy,
            temperature=None if self.temperature is None else self.temperature * factor,
            parameters={**self.parameters, **reduced},
            exact=ExactValues(),
        )
        # It has the symmetries that this one has.
        if self.__dict__.get("_checked"):
            other.mark_checked()
        return other

    @functools.cached_property
    def energies(self) -> Callable[[Float[Array | np.ndarray, "B N D"]], Float[Array, " B"]]:
        """Reduced energies of a batch, (B, N, D) -> (B,), compiled."""
        return jax.jit(jax.vmap(self.energy))

    @functools.cached_property
    def energies_and_gradients(
        self,
    ) -> Callable[[Float[Array | np.ndarray, "B N D"]], tuple[Float[Array, " B"], Float[Array, "B N D"]]]:
        """Reduced energies and their gradients of a batch, compiled."""
        return jax.jit(jax.vmap(jax.value_and_grad(self.energy)))

    def starting_positions(self, *, key: PRNGKeyArray) -> Float[Array, "N D"]:
        """A configuration to start a sampler from; a unit Gaussian on the zero-CoM subspace if the target names none.

        Args:
            key: of the random numbers.
        """
        if self.start is not None:
            return self.start(key)
        positions = jax.random.normal(key, (self.n_particles, self.dimension))
        return positions - jnp.mean(positions, axis=0)[None]

    def __repr__(self) -> str:
        """In one line; the fields of a molecule would fill pages."""
        facts = [] if self.has_energy else ["no energy"]
        facts += [f"{len(self.bonds)} bonds"] if self.bonds else []
        facts += [f"{len(self.chiral_centres)} chiral centres"] if self.chiral_centres else []
        kinds = len(set(self.classes))
        told = "all particles interchangeable" if kinds == 1 else f"{kinds} classes of interchangeable particles"
        mirror = "mirror images alike" if self.reflections else "one enantiomer"
        return f"<Target {self.fingerprint}: {'; '.join((told, mirror, *facts, *filter(None, [self.about])))}>"

    def _repr_html_(self) -> str:
        """For notebooks: what the density is of, and the structure of a molecule or the energy along a scaling."""
        exact, kinds = self.exact, len(set(self.classes))
        told = "all interchangeable" if kinds == 1 else f"{kinds} classes of interchangeable ones"
        log_z = None if exact.log_z is None else f"{exact.log_z:g}"
        rows: list[display.Row] = [
            ("particles", f"{self.n_particles} in {self.dimension}-D, {told}"),
            ("parameters", ", ".join(f"{key} = {value}" for key, value in self.parameters.items())[:200]),
            ("units", self.units if self.temperature is None else f"{self.units}, {self.temperature:g} K"),
            ("mirror images", "alike" if self.reflections else "one enantiomer is meant"),
            ("bonds", len(self.bonds) or None),
            ("chiral centres", len(self.chiral_centres) or None),
            ("energy", None if self.has_energy else "none; the density is known by frames alone"),
            ("exact log Z", log_z, f"± {exact.log_z_error:g}" if exact.log_z_error else ""),
            ("exact mean energy / kT", None if exact.mean_energy is None else f"{exact.mean_energy:g}"),
            ("about", self.about),
        ]
        return display.page(f"Target {self.name}", rows, self._picture)

    @functools.cached_property
    def _picture(self) -> str:
        from boltzflow.targets import shown

        draw, alternative = None, "the structure"
        if self.structure is not None:
            draw = shown.structure(self.structure, self.bonds, self.elements, self.classes, self.units)
        elif self.has_energy and getattr(self.energy_function, "evaluator", None) is None:
            # Code of users runs here, and may fail; the table is shown all the same.
            with contextlib.suppress(Exception):
                alternative = "energy of a configuration that is scaled"
                draw = shown.curve(self.energies, self.starting_positions, self.exact.mean_energy, self.units)
        return "" if draw is None else display.thumbnail(draw, alternative)

    def check_energy(self) -> None:
        """Checks that the energy is a scalar, finite where samplers start, and has the symmetries that the target states.

        Translations, rotations, reflections where the target states them, and exchanges within each class are tried on random
        configurations, in double precision. Done once for each object; factories of targets have done it already, for a target made by
        hand `fit` and the samplers do.

        Raises:
            TargetError: says what the energy function returned instead, or which symmetry it lacks and by how many kT.
        """
        if self.energy_function is None or self.__dict__.get("_checked"):
            return
        trial = self.trial()
        trial.check_values()
        trial.check(self.classes, self.reflections)
        self.mark_checked()

    def mark_checked(self) -> None:
        """Notes that the energy has been checked, by whoever made this target."""
        self.__dict__["_checked"] = True

    def trial(self, *, double: bool = True) -> Trial:
        """Random configurations with their energies in double precision, to try symmetries on.

        Args:
            double: False: in that of this process. What users have not written for double precision may trip over JAX, which remembers
                constants of what it has traced in the other one.

        Raises:
            TargetError: if the energy function fails, or gives no real scalar.
        """
        starts = np.stack([self.starting_positions(key=jax.random.key(k)) for k in range(3)]).astype(np.float64)
        if not np.isfinite(starts).all():
            raise TargetError(f"the starting configurations of target {self.name!r} are not finite; mend `start=`.")
        by_hand = getattr(self.energy_function, "in_double", None)
        if by_hand is not None:
            return Trial(self.name, by_hand, DOUBLE_ROUNDING, starts, costly=True)
        return Trial(self.name, *self._in_double(starts.shape[1:], double), starts)

    def _in_double(self, shape: tuple[int, ...], double: bool) -> tuple[Energies, float]:
        """Energies of batches in double precision where the function lets itself be computed so, and their relative rounding."""
        try:
            single = jax.eval_shape(self.energy, jax.ShapeDtypeStruct(shape, jnp.zeros(()).dtype))
        except Exception as error:
            raise TargetError(
                f"the energy function of target {self.name!r} fails on positions of shape {shape}: "
                f"{(str(error).splitlines() or [type(error).__name__])[0]}"
            ) from error
        if not hasattr(single, "shape") or single.shape != () or not jnp.issubdtype(single.dtype, jnp.floating):
            returned = f"shape {single.shape}" if getattr(single, "shape", None) else str(getattr(single, "dtype", type(single).__name__))
            raise TargetError(
                f"the energy function of target {self.name!r} must return a scalar for one configuration of shape "
                f"{shape}, but returns {returned}; write it for one configuration, boltzflow batches it."
            )
        if double:
            try:
                with jax.enable_x64(True):
                    found = jax.eval_shape(self.energy, jax.ShapeDtypeStruct(shape, jnp.float64))
                double = found.dtype == jnp.float64
            except Exception:  # some functions are written for single precision alone
                double = False
        double = double or jnp.zeros(()).dtype == jnp.float64
        function = jax.jit(jax.vmap(self.energy))

        def energies(positions: Float[np.ndarray, "B N D"]) -> Float[np.ndarray, " B"]:
            parts = []
            with jax.enable_x64(double):
                # In batches of one size, for which it is compiled once.
                for begin in range(0, len(positions), _BATCH):
                    batch = positions[begin : begin + _BATCH]
                    padded = np.concatenate([batch, np.broadcast_to(batch[:1], (_BATCH - len(batch), *shape))])
                    parts.append(np.asarray(function(jnp.asarray(padded)), np.float64)[: len(batch)])
            return np.concatenate(parts) if parts else np.empty(0)

        return energies, DOUBLE_ROUNDING if double else _SINGLE_ROUNDING
