"""How often an energy was evaluated: the currency in which samplers, objectives and corrections are compared.

Counted where it happens, per configuration. An energy that comes together with its gradient counts as one gradient; the total counts both
alike. What autodiff or a line of a table evaluates inside of one call is not counted apart.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Evaluations(NamedTuple):
    """Evaluations of a reduced energy, one per configuration.

    Example:
        >>> spent = bf.counting.Evaluations(energies=100, gradients=20)
        >>> spent.total
        120

    Attributes:
        energies: of the energy alone.
        gradients: of the energy with its gradient.
    """

    energies: int = 0
    gradients: int = 0

    def __add__(self, other: object) -> "Evaluations":
        if not isinstance(other, Evaluations):
            return NotImplemented
        return Evaluations(self.energies + other.energies, self.gradients + other.gradients)

    @property
    def total(self) -> int:
        """Both alike."""
        return self.energies + self.gradients

    def as_meta(self) -> dict[str, int]:
        """Entries for the meta of samples and of data sets, which add up where those are joined (`META`)."""
        return dict(zip(META, map(int, self), strict=True))

    def as_dict(self) -> dict[str, int]:
        """Entries for figures and cards: energies, gradients and their total."""
        return {"energies": int(self.energies), "gradients": int(self.gradients), "total": int(self.total)}

    def sentence(self) -> str:
        """What was spent, in words."""
        parts = [f"{count:,} of the energy {how}" for count, how in zip(self, ("alone", "with its gradient"), strict=True) if count]
        return f"Evaluations: {' and '.join(parts) or 'none of the energy'}."

    @classmethod
    def of_meta(cls, meta: Mapping[str, Any]) -> "Evaluations | None":
        """What a meta says, or None where it says nothing: made by something that did not count.

        Args:
            meta: of samples or data.
        """
        if not any(key in meta for key in META):
            return None
        return cls(*(int(meta.get(key, 0)) for key in META))


META = ("energy_evaluations", "gradient_evaluations")
"""The entries of a meta that hold the fields of `Evaluations`."""
