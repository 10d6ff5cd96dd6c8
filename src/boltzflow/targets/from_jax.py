"""Any differentiable JAX potential of a molecule as a target: machine-learned ones, pair potentials, jax-md's."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow.errors import TargetError, nearest
from boltzflow.targets._described import Described, described
from boltzflow.targets.base import BOLTZMANN, Target
from boltzflow.targets.calculators import KJ_PER_MOL, NM, EnergyUnit, LengthUnit
from boltzflow.targets.from_function import warn_if_rounded
from boltzflow.targets.invariance import Trial

# Energies in kT beyond which one near the structure is subtracted: single precision would round differences.
_LARGE = 1000.0
# Noise on the coordinates in nm under which energies of one molecule are compared, how many configurations, and how far apart they may be.
_NOISE, _TRIED, _FACTOR = 0.004, 16, 8.0
# Of a factor that another unit would leave.
_NEAR = 3.0


def from_jax(
    energy: Callable[[Float[Array, "N 3"]], Float[Array, ""]],
    molecule: Sequence[str] | Target,
    *,
    energy_unit: EnergyUnit,
    length_unit: LengthUnit = "nm",
    name: str,
    positions: Float[np.ndarray, "N 3"] | None = None,
    temperature: float | None = None,
    reference_energy: float | None = None,
    classes: Sequence[int] | None = None,
    reflections: bool | None = None,
    bonds: Sequence[tuple[int, int]] | None = None,
    parameters: Mapping[str, float | int | str | bool] | None = None,
) -> Target:
    """Makes a target of a molecule whose energy is a JAX function: batched, differentiated and compiled with all else.

    Translations, rotations and the symmetries of the molecule are tried on random configurations, and the gradient is looked at. Where
    another target of the molecule is given, the two energies must rise alike under small displacements, within a factor of 8: a wrong unit
    shows.

    Args:
        energy: energy of one configuration, (N, 3) -> (), such as a network with its weights (`functools.partial(model.apply, weights)`).
            It must be differentiable, not depend on the centre of mass, and hold the molecule together: a potential that lets atoms go has
            no Boltzmann distribution in open space.
        molecule: a target of this molecule, such as that of a force field, from which all that follows and is not given is taken, and its
            topology and chirality; or the chemical symbols of the atoms.
        energy_unit: unit of the energy.
        length_unit: unit of the positions that the function takes.
        name: a name; with the symbols and `parameters` it tells this target from others in data files and checkpoints. The function itself
            is no part of the fingerprint: change the name or a parameter when you change it.
        positions: a sensible geometry in nm; samplers start near it.
        temperature: in kelvin.
        reference_energy: in `energy_unit`, subtracted; None: the energy of the geometry where that is above 1 000 kT, told in the
            target's `about`. It moves u and log Z by a constant.
        classes: interchangeability class of each atom; None: each atom is a class of its own (`targets.interchangeable` finds them).
        reflections: whether mirror images are equally probable; energies are blind to chirality. None: as the molecule says, else False.
        bonds: pairs of bonded atoms.
        parameters: what distinguishes this potential from others of its name, such as a version of its weights.

    Returns:
        The target, in nm.

    Raises:
        TargetError: if a unit is unknown or plainly wrong, the function fails, returns no scalar or NaN, or has no finite gradient at the
            geometry, or the energy lacks a symmetry.
    """
    known = described(
        molecule, name=name, positions=positions, temperature=temperature, classes=classes, reflections=reflections, bonds=bonds
    )
    scaled = _in_units(energy, name, energy_unit, length_unit, known.temperature)
    target = Target(
        name=name,
        n_particles=len(known.symbols),
        dimension=3,
        energy_function=scaled,
        classes=tuple(range(len(known.symbols))) if known.classes is None else known.classes,
        reflections=bool(known.reflections),
        units="nm",
        temperature=known.temperature,
        parameters={**(parameters or {}), "symbols": "".join(known.symbols), **_noted(reference_energy)},
        start=known.start,
        bonds=known.bonds,
        elements=known.symbols,
    )
    trial = target.trial(double=False)
    start = _energy_at_start(trial)
    trial.check(target.classes, target.reflections)
    _check_gradient(target, known)
    _check_scale(target, known, energy)
    unit = 1.0 if energy_unit == "kT" else KJ_PER_MOL[energy_unit] / (BOLTZMANN * known.temperature)
    reference = reference_energy
    if reference is None and abs(start) > _LARGE:
        reference = round(start / unit, 3)
        told = f"energies are relative to {reference:.3f} {energy_unit}, the energy of the geometry"
        target = dataclasses.replace(target, about=told)
        # What the function has rounded before stays lost.
        warn_if_rounded(name, start)
    if reference:
        target = dataclasses.replace(target, energy_function=_shifted(scaled, reference * unit))
    target.mark_checked()
    return known.completed(target)


def _noted(reference: float | None) -> dict[str, float]:
    """A reference energy that was given, for the fingerprint."""
    if reference is not None and not math.isfinite(reference):
        raise TargetError(f"the reference energy must be a finite number, got {reference}.")
    return {"reference_energy": float(reference)} if reference else {}


def _in_units(
    energy: Callable[[Any], Any], name: str, energy_unit: str, length_unit: str, temperature: float
) -> Callable[[Float[Array, "N 3"]], Float[Array, ""]]:
    """Reduced energy of positions in nm."""
    for unit, units, what in ((energy_unit, ("kT", *KJ_PER_MOL), "energies"), (length_unit, tuple(NM), "lengths")):
        if unit not in units:
            raise TargetError(f"target {name!r} has {what} in {unit!r}; {nearest(str(unit), units)}")
    if not callable(energy):
        raise TargetError(f"the energy of target {name!r} must be a function of positions (N, 3), got {type(energy).__name__}.")
    if not temperature > 0:
        raise TargetError(f"the temperature of target {name!r} must be a positive number of kelvin, got {temperature}.")
    scale = 1.0 if energy_unit == "kT" else KJ_PER_MOL[energy_unit] / (BOLTZMANN * temperature)
    length = NM[length_unit]

    def reduced(positions: Float[Array, "N 3"]) -> Float[Array, ""]:
        value = energy(positions / length)
        if not hasattr(value, "dtype") or getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
            # Its shape or type is told by whoever looks at it first.
            return value
        return scale * value

    return reduced


def _shifted(reduced: Callable[[Any], Any], reference: float) -> Callable[[Float[Array, "N 3"]], Float[Array, ""]]:
    def shifted(positions: Float[Array, "N 3"]) -> Float[Array, ""]:
        return reduced(positions) - reference

    return shifted


def _energy_at_start(trial: Trial) -> float:
    """The energy at the geometry.

    Raises:
        TargetError: if it is not finite, or the same whatever the configuration.
    """
    try:
        return trial.check_values()
    except TargetError as error:
        if np.isfinite(trial.start_energy):
            raise
        raise TargetError(
            f"the energy of target {trial.name!r} is {trial.start_energy:g} at the geometry; look at length_unit, which the function gets "
            "its positions in, at the order of the atoms, or mend the function."
        ) from error


def _check_gradient(target: Target, known: Described) -> None:
    """Refuses an energy that has no finite gradient at the geometry, or none at all."""
    x = jnp.asarray(known.geometry - known.geometry.mean(axis=0), jnp.zeros(()).dtype)
    try:
        gradient = np.asarray(jax.jit(jax.grad(target.energy))(x), np.float64)
    except Exception as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise TargetError(
            f"the energy of target {target.name!r} cannot be differentiated by JAX ({line}); write it in JAX, or take from_calculator, "
            "which lets it give its gradient."
        ) from error
    if not np.isfinite(gradient).all():
        atoms = np.flatnonzero(~np.isfinite(gradient).all(axis=1))
        raise TargetError(
            f"the gradient of the energy of target {target.name!r} is not finite at the geometry (atoms {', '.join(map(str, atoms[:6]))}), "
            "although the energy is: often the root of a squared distance that is zero, of an atom from itself; leave those pairs out "
            "before the root is taken."
        )


def _check_scale(target: Target, known: Described, energy: Callable[[Any], Any]) -> None:
    """Refuses an energy that rises by far more or less under small displacements than that of another target of the molecule."""
    same = known.same
    if same is None or not same.has_energy or same.structure is None or same.temperature is None:
        return
    noise = _NOISE * np.random.default_rng(0).standard_normal((_TRIED, *known.geometry.shape))
    frames = np.concatenate([known.geometry[None], known.geometry + noise])
    frames -= frames.mean(axis=1, keepdims=True)

    def rise(of: Callable[[Any], Any], temperature: float) -> float:
        u = np.asarray(of(jnp.asarray(frames, jnp.zeros(()).dtype)), np.float64) * temperature
        return float(np.median(u[1:]) - u[0])

    ours, theirs = rise(target.energies, known.temperature), rise(same.energies, same.temperature)
    if not (ours > 0.0 and theirs > 0.0) or max(ours / theirs, theirs / ours) <= _FACTOR:
        return
    raise TargetError(
        f"the energy of target {target.name!r} rises {ours / theirs:.2g} times as much as that of {same.name!r} when atoms are moved by "
        f"{_NOISE} nm, so its unit seems wrong{_hint(energy, known, frames, theirs)}; mend energy_unit or length_unit, or give symbols "
        "and positions in place of the target, if the two are that different."
    )


def _hint(energy: Callable[[Any], Any], known: Described, frames: Float[np.ndarray, "B N 3"], expected: float) -> str:
    """Units that would fit, in words; empty where none does."""
    fitting = []
    for length, size in NM.items():
        with_length = np.asarray(jax.vmap(energy)(jnp.asarray(frames / size, jnp.zeros(()).dtype)), np.float64)
        rise = float(np.median(with_length[1:]) - with_length[0])
        for unit, kj in (("kT", BOLTZMANN * known.temperature), *KJ_PER_MOL.items()):
            ratio = rise * kj / (BOLTZMANN * expected)
            if ratio > 0.0 and max(ratio, 1.0 / ratio) <= _NEAR:
                fitting.append((abs(math.log(ratio)), f"{unit} and {length}"))
    return f" ({' or '.join(words for _, words in sorted(fitting)[:2])} would fit)" if fitting else ""
