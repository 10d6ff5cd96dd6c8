"""Symmetries of any energy, tried before they are used: translations, rotations, reflections, and particles that change places.

Flows and samplers build on the symmetries that a target states: an energy that lacks one would give frames and weights of another
density without a word. So each is tried on random configurations. All numbers are in double precision and in kT, on an absolute scale: a
large constant in the energy must not hide a difference.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from boltzflow.errors import TargetError
from boltzflow.geometry.orthogonal import haar

# Reduced energies of a batch in double precision; not finite where there is none.
Energies = Callable[[Float[np.ndarray, "B N D"]], Float[np.ndarray, " B"]]

TOLERANCE = 0.01
"""Largest change in kT by a symmetry."""
COSTLY_TOLERANCE = 0.2
"""The same for energies by calculators: implicit solvents of quantum chemistry integrate over surfaces on grids that do not turn with the
molecule; GFN2-xTB in water changes by up to 0.06 kT when alanine dipeptide is rotated."""
DOUBLE_ROUNDING = 1e-11
"""Of energies in double precision, relative to them, with room for sums of large terms."""
# Noise on starting configurations, relative to the distance of nearest neighbours: off their symmetric places, where energies would
# agree by chance, and off those where atoms lie in line.
_NOISE = 0.05
# Changes of size on top, for energies that are at hand at no cost.
_STRETCHES = (1.0, 1.0, 1.0, 1.4, 0.8)
_FRAMES = 3
# Up to this many exchanges of two particles are tried with energies that cost.
_FEW_EXCHANGES = 32


@dataclasses.dataclass(frozen=True)
class Symmetries:
    """What an energy shows.

    Attributes:
        classes: interchangeability class of each particle.
        reflections: whether mirror images have the same energy.
        found: what was found by testing rather than stated, in words; empty if nothing was left to find.
    """

    classes: tuple[int, ...]
    reflections: bool
    found: str = ""


class Trial:
    """Random configurations of a target with their energies, to try symmetries on.

    Attributes:
        energies: of batches, in double precision where the function lets itself be computed so.
        start: a starting configuration as it is.
        frames: configurations off their symmetric places.
        start_energy: the energy of the start; NaN as long as it has not been computed.
    """

    def __init__(self, name: str, energies: Energies, rounding: float, starts: Float[np.ndarray, "K N D"], *, costly: bool = False) -> None:
        """Makes the configurations; energies are computed when they are needed.

        Args:
            name: of the target, for sentences.
            energies: of batches.
            rounding: of the energies, relative to them.
            starts: starting configurations, each of another key.
            costly: whether energies are to be saved: fewer configurations, and all symmetries of each tried at once.
        """
        self.name, self.energies, self._costly, self._rounding = name, energies, costly, rounding
        self._tolerance = COSTLY_TOLERANCE if costly else TOLERANCE
        self._generator = np.random.default_rng(0)
        stretches = _STRETCHES[:_FRAMES] if costly else _STRETCHES
        self.start = np.asarray(starts[0], np.float64)
        bases = [np.asarray(starts[k % len(starts)], np.float64) for k in range(len(stretches))]
        self.frames = np.stack([stretch * self._shaken(base) for base, stretch in zip(bases, stretches, strict=True)])
        self._u: Float[np.ndarray, " K"] | None = None
        self.start_energy = np.nan

    def check_values(self) -> float:
        """The energy of the starting configuration in double precision.

        Raises:
            TargetError: if it is not finite, or the same whatever the configuration.
        """
        u = self._with_energies(np.empty((0, *self.start.shape)))[1]
        if not np.isfinite(self.start_energy):
            raise TargetError(
                f"the energy function of target {self.name!r} returns {self.start_energy:g} on a starting configuration; pass `start=` "
                "with a configuration of finite energy, or mend the function."
            )
        found = np.append(u[np.isfinite(u)], self.start_energy)
        if len(found) > 1 and np.ptp(found) <= 1e-12 * max(1.0, abs(self.start_energy)):
            raise TargetError(
                f"the energy of target {self.name!r} is {self.start_energy:.6g} kT for every configuration, so that there is no density to "
                "normalise; write an energy that depends on the positions."
            )
        return self.start_energy

    def _with_energies(self, others: Float[np.ndarray, "M N D"]) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " K"]]:
        """Energies of other configurations, and those of the frames, which are computed along the first time."""
        if self._u is not None:
            return (self.energies(others) if len(others) else np.empty(0)), self._u
        u = self.energies(np.concatenate([self.start[None], self.frames, others]))
        self.start_energy, self._u = float(u[0]), u[1 : 1 + len(self.frames)]
        return u[1 + len(self.frames) :], self._u

    def check(self, classes: Sequence[int], reflections: bool) -> None:
        """Tries all symmetries that a target states.

        Raises:
            TargetError: names the first one that the energy lacks, and by how much the energy changes.
        """
        if self._costly and self._hold(classes, reflections):
            return
        moves: list[tuple[Callable[[Float[np.ndarray, "N D"], int], Float[np.ndarray, "N D"]], str]] = [
            (
                lambda x, _: x + self._shift(x.shape[1]),
                "when all particles are moved by 1; densities live on the zero-CoM subspace, so subtract the mean over particles inside "
                "the energy",
            )
        ]
        if self.start.shape[1] > 1:
            moves.append(
                (
                    lambda x, _: x @ self._orthogonal(x.shape[1], mirror=False),
                    "when the configuration is rotated; flows and samplers take rotations for a symmetry of every target, so leave out "
                    "what ties the energy to directions in space (a field, a wall, a restraint to fixed points)",
                )
            )
        if reflections:
            moves.append(
                (
                    lambda x, _: x @ self._orthogonal(x.shape[1], mirror=True),
                    "when the configuration is reflected, so mirror images are not equally probable; make it with reflections=False",
                )
            )
        for move, words in moves:
            difference = self._difference([move(frame, k) for k, frame in enumerate(self.frames)])
            if difference > 0:
                raise self._refusal(difference, words)
        for number in sorted(set(classes)):
            members = np.flatnonzero(np.asarray(classes) == number)
            if len(members) > 1:
                difference = self._difference([frame[self._shuffled(members, k)] for k, frame in enumerate(self.frames)])
                if difference > 0:
                    raise self._refusal(difference, self._which_pair(members, number))

    def find(self, classes: Sequence[int] | None, reflections: bool | None) -> Symmetries:
        """The symmetries of the energy: those that are stated are tried, those that are None are found.

        With costly energies, particles that are not all alike are told apart one and all, unless there are few.

        Raises:
            TargetError: if a symmetry that is stated, or that every target needs, is not one.
        """
        n = self.start.shape[0]
        alike = (0,) * n if classes is None else tuple(classes)
        if self._costly and self._hold(alike, reflections is not False):
            return Symmetries(alike, reflections is not False, self._words(alike, True, classes is None, reflections is None))
        self.check(range(n) if classes is None else classes, bool(reflections))
        if reflections is None:
            mirrored = [frame @ self._orthogonal(frame.shape[1], mirror=True) for frame in self.frames]
            mirror = self._difference(mirrored) == 0
        else:
            mirror = reflections
        kept = self._classes() if classes is None else alike
        return Symmetries(kept, mirror, self._words(kept, mirror, classes is None, reflections is None))

    def _words(self, classes: Sequence[int], mirror: bool, classes_found: bool, mirror_found: bool) -> str:
        parts = []
        if classes_found:
            kinds = len(set(classes))
            if kinds == 1:
                parts.append("all particles are interchangeable")
            elif kinds == len(classes):
                parts.append("no two particles are taken for interchangeable")
            else:
                parts.append(f"the interchangeable particles form the classes {list(classes)}")
        if mirror_found:
            parts.append("mirror images have the same energy" if mirror else "mirror images differ in energy")
        return f"found by testing: {' and '.join(parts)}" if parts else ""

    def _classes(self) -> tuple[int, ...]:
        """Interchangeable particles by exchanges of two."""
        n = len(self.start)
        everyone = np.arange(n)
        if self._difference([frame[self._shuffled(everyone, k)] for k, frame in enumerate(self.frames)]) == 0:
            return (0,) * n
        if self._costly and n * (n - 1) // 2 > _FEW_EXCHANGES:
            return tuple(range(n))
        leader = np.full(n, -1)
        for first in range(n):
            if leader[first] >= 0:
                continue
            leader[first] = first
            # On one frame first: most pairs fail there.
            others = [int(i) for i in range(first + 1, n) if leader[i] < 0]
            for frame in range(len(self.frames)):
                changes = self._changes([_exchanged(self.frames[frame], first, i) for i in others], [frame] * len(others))
                others = [i for i, change in zip(others, changes, strict=True) if change == 0]
            leader[others] = first
        numbers: dict[int, int] = {}
        return tuple(numbers.setdefault(int(first), len(numbers)) for first in leader)

    def _hold(self, classes: Sequence[int], reflections: bool) -> bool:
        """Whether a random product of all symmetries leaves the energy of every frame as it is: one energy for each."""
        moved = []
        for k, frame in enumerate(self.frames):
            for number in sorted(set(classes)):
                frame = frame[self._shuffled(np.flatnonzero(np.asarray(classes) == number), k, len(frame))]
            dimension = frame.shape[1]
            # The first and the last with a reflection, so that rotations are tried without, too.
            moved.append(frame @ self._orthogonal(dimension, mirror=reflections and k != 1) + self._shift(dimension))
        return self._difference(moved) == 0

    def _difference(self, moved: Sequence[Float[np.ndarray, "N D"]]) -> float:
        """The largest change of the energy in kT by a move of each frame; 0 if it is within the tolerance."""
        return max(self._changes(moved, range(len(self.frames))), default=0.0)

    def _changes(self, moved: Sequence[Float[np.ndarray, "N D"]], frames: Sequence[int]) -> list[float]:
        """Of each moved frame the change of its energy in kT; 0 within the tolerance, or where frame and image have none."""
        after, before = self._with_energies(np.asarray(moved, np.float64).reshape(-1, *self.start.shape))
        changes = []
        for value, k in zip(after, frames, strict=True):
            if np.isfinite(value) != np.isfinite(before[k]):
                changes.append(np.inf)
            elif not np.isfinite(value):
                changes.append(0.0)
            else:
                change = abs(float(value - before[k]))
                changes.append(change if change > self._tolerance + self._rounding * abs(float(before[k])) else 0.0)
        return changes

    def _refusal(self, difference: float, words: str) -> TargetError:
        again, before = self.energies(self.frames), self._with_energies(np.empty((0, *self.start.shape)))[1]
        both = np.isfinite(again) & np.isfinite(before)
        noise = float(np.abs(again[both] - before[both]).max(initial=0.0))
        if noise > self._tolerance:
            return TargetError(
                f"the energy function of target {self.name!r} gives energies for one configuration that differ by {noise:.3g} kT from call "
                "to call; it must be a function of the positions alone, so converge it tighter or leave out what is random."
            )
        size = "between finite and not finite" if np.isinf(difference) else f"by {difference:.3g} kT"
        return TargetError(f"the energy of target {self.name!r} changes {size} {words}.")

    def _which_pair(self, members: Int[np.ndarray, " m"], number: int) -> str:
        """Names the exchange of the class's first particle that changes the energy most."""
        changes = self._changes(
            [_exchanged(self.frames[0], int(members[0]), int(other)) for other in members[1:]], [0] * (len(members) - 1)
        )
        worst = int(np.argmax(changes))
        pair = f"particles {members[0]} and {members[1 + worst]}" if changes[worst] > 0 else f"particles {_listed(members)}"
        return f"when {pair} change places, but both are in class {number}; give particles that differ different numbers in classes="

    def _shaken(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        nearest = np.linalg.norm(x[:, None] - x, axis=-1)
        np.fill_diagonal(nearest, np.inf)
        size = float(np.median(nearest.min(axis=1))) or float(np.abs(x - x.mean(axis=0)).max()) or 1.0
        return x + _NOISE * size * self._generator.standard_normal(x.shape)

    def _shift(self, dimension: int) -> Float[np.ndarray, " D"]:
        vector = self._generator.standard_normal(dimension)
        return vector / np.linalg.norm(vector)

    def _orthogonal(self, dimension: int, *, mirror: bool) -> Float[np.ndarray, "D D"]:
        return haar(self._generator, 1, dimension, determinant=-1.0 if mirror else 1.0)[0]

    def _shuffled(self, members: Int[np.ndarray, " m"], k: int, n: int | None = None) -> Int[np.ndarray, " N"]:
        """An order of all particles in which members have changed places at random.

        Every other one is odd, so that energies that know the handedness of an order are found, and none leaves a pair as it is.
        """
        order = np.arange(len(self.start) if n is None else n)
        shuffled = self._generator.permutation(members)
        m = len(members)
        if m > 1 and (k % 2 == 0 or m % 2 == 0):
            order[shuffled] = np.roll(shuffled, 1)
        elif m > 1:
            pairs = m // 2 - (m // 2 + 1) % 2
            for a, b in shuffled[: 2 * pairs].reshape(-1, 2):
                order[a], order[b] = b, a
        return order


def _exchanged(frame: Float[np.ndarray, "N D"], i: int, j: int) -> Float[np.ndarray, "N D"]:
    exchanged = frame.copy()
    exchanged[[i, j]] = frame[[j, i]]
    return exchanged


def _listed(members: Int[np.ndarray, " m"]) -> str:
    shown = ", ".join(map(str, members[:6]))
    return shown if len(members) <= 6 else f"{shown}, ..."
