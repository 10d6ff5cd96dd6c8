"""Cut-offs of OpenMM's pair forces in open space: beyond a distance a pair has no energy."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from boltzflow.chemistry.force_field.bonded import plain
from boltzflow.errors import TargetError

# The numbers that all pair forces of OpenMM have in common; those above are of periodic boxes.
_NONE, _NON_PERIODIC = 0, 1


@dataclasses.dataclass(frozen=True)
class Cutoff:
    """Where the energy of a pair ends.

    Attributes:
        distance: in nm; pairs farther apart have no energy.
        switch: in nm, from where on a polynomial takes the energy smoothly to 0; None: it ends at once.
    """

    distance: float
    switch: float | None

    def inside(self, r: Float[Array, "M B"]) -> Bool[Array, "M B"]:
        """Which pairs have an energy."""
        return r < self.distance

    def clipped(self, r: Float[Array, "M B"]) -> Float[Array, "M B"]:
        """Distances, those beyond the cut-off set to it: where nothing counts, nothing must overflow either."""
        return jnp.minimum(r, self.distance)

    def switched(self, r: Float[Array, "M B"]) -> Float[Array, "M B"] | float:
        """The factor 1 - 10 t³ + 15 t⁴ - 6 t⁵ that takes energies to 0 (OpenMM's theory guide, Lennard-Jones interaction)."""
        if self.switch is None:
            return 1.0
        t = jnp.maximum(r - self.switch, 0.0) / (self.distance - self.switch)
        return 1.0 + t * t * t * (-10.0 + t * (15.0 - t * 6.0))


def cut_off(force: Any) -> Cutoff | None:
    """The cut-off of a pair force; None if it has none.

    Raises:
        TargetError: if the force is periodic, or its switching distance is not inside of its cut-off.
    """
    kind = type(force).__name__
    method = force.getNonbondedMethod()
    if method == _NONE:
        return None
    if method != _NON_PERIODIC:
        raise TargetError(f"the {kind} is that of a periodic box; make the system with nonbondedMethod=NoCutoff or CutoffNonPeriodic.")
    distance = plain(force.getCutoffDistance())
    switching = hasattr(force, "getUseSwitchingFunction") and force.getUseSwitchingFunction()
    switch = plain(force.getSwitchingDistance()) if switching else None
    if switch is not None and not 0.0 <= switch < distance:
        raise TargetError(
            f"the {kind} switches from {switch:g} nm on and ends at {distance:g} nm; its switching distance must be less than its cut-off."
        )
    return Cutoff(distance, switch)
