"""Options of the solvers, and of how the divergence is computed."""

import dataclasses
from typing import Any, Self

from boltzflow.config.options import Options
from boltzflow.config.ranges import AtLeastOne, Count, Positive


@dataclasses.dataclass(frozen=True)
class Divergence(Options, kind="divergence"):
    """How the divergence of the vector field is computed.

    Example:
        >>> isinstance(bf.Hutchinson(), bf.config.Divergence)
        True
    """


@dataclasses.dataclass(frozen=True)
class Exact(Divergence, name="exact"):
    """The fastest exact way that the vector field has.

    Example:
        >>> bf.GaussLegendre(nodes=8).divergence == bf.Exact()
        True
    """


@dataclasses.dataclass(frozen=True)
class BruteForce(Divergence, name="brute-force"):
    """N·D Jacobian-vector products.

    Example:
        >>> str(bf.RK4(steps=10, divergence=bf.BruteForce()))
        'rk4, 10 steps'
    """


@dataclasses.dataclass(frozen=True)
class Hutchinson(Divergence, name="hutchinson"):
    """An unbiased estimate of log q; reweighting with it is biased.

    Example:
        >>> bf.GaussLegendre(nodes=8, divergence=bf.Hutchinson(probes=2)).unsaid
        'probes 2'

    Attributes:
        probes: probe vectors.
    """

    probes: Count = 1


@dataclasses.dataclass(frozen=True)
class Solver(Options, kind="solver"):
    """How the flow's ODE is integrated.

    Example:
        >>> str(bf.GaussLegendre(nodes=8).finer())
        'gauss-legendre, 16 nodes'

    Attributes:
        divergence: how the divergence of the vector field is computed: "exact", the fastest exact way that the field has, "brute-force",
            N·D Jacobian-vector products, or "hutchinson", an unbiased estimate of log q (reweighting with it is biased).
    """

    divergence: Divergence = dataclasses.field(default=Exact(), kw_only=True)

    def finer(self) -> Self:
        """A solver to judge this one by: twice the steps or nodes, a tenth of the tolerances, and the exact divergence."""
        return dataclasses.replace(self, divergence=Exact(), **self._finer())

    def _finer(self) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def unsaid(self) -> str:
        """Settings that decide log q and that `str` leaves out."""
        return f"probes {self.divergence.probes}" if isinstance(self.divergence, Hutchinson) else ""


@dataclasses.dataclass(frozen=True)
class Adaptive(Solver):
    """A solver that adapts its steps and carries the divergence through every stage.

    Attributes:
        rtol: relative tolerance.
        atol: absolute tolerance, in units of the prior's standard deviation.
        max_steps: a solve that needs more than this has failed.
    """

    rtol: Positive = 1e-4
    atol: Positive = 1e-4
    max_steps: Count = 256

    def _finer(self) -> dict[str, Any]:
        return {"rtol": 0.1 * self.rtol, "atol": 0.1 * self.atol, "max_steps": 4 * self.max_steps}

    def __str__(self) -> str:
        """The method with its tolerances."""
        return f"{self.variant}, rtol {self.rtol:g}, atol {self.atol:g}"

    @property
    def unsaid(self) -> str:
        """Probes and the largest number of steps."""
        return super().unsaid + f"max_steps {self.max_steps}"


@dataclasses.dataclass(frozen=True)
class Dopri5(Adaptive, name="dopri5"):
    """The method of Dormand and Prince.

    Example:
        >>> str(bf.Dopri5(rtol=1e-5, atol=1e-5))
        'dopri5, rtol 1e-05, atol 1e-05'
    """


@dataclasses.dataclass(frozen=True)
class Tsit5(Adaptive, name="tsit5"):
    """The method of Tsitouras.

    Example:
        >>> bf.ECNF(solver=bf.Tsit5(max_steps=512)).solver.max_steps
        512
    """


@dataclasses.dataclass(frozen=True)
class RK4(Solver, name="rk4"):
    """The classical Runge-Kutta method, which carries the divergence through every stage.

    Example:
        >>> str(bf.RK4(steps=20).finer())
        'rk4, 40 steps'

    Attributes:
        steps: equal steps.
    """

    steps: Count = 20

    def _finer(self) -> dict[str, Any]:
        return {"steps": 2 * self.steps}

    def __str__(self) -> str:
        """The method with its steps."""
        return f"rk4, {self.steps} steps"


@dataclasses.dataclass(frozen=True)
class GaussLegendre(Solver, name="gauss-legendre"):
    """Runge-Kutta steps between the nodes of a Gauss-Legendre rule, at which alone the divergence is evaluated.

    Several times cheaper than the others for the same error.

    Example:
        >>> str(bf.GaussLegendre(nodes=24, grading=1.5))
        'gauss-legendre, 24 nodes, grading 1.5'

    Attributes:
        nodes: nodes of the rule.
        grading: exponent that moves the nodes towards the data, where the bonds of molecules take their length and the divergence is
            largest; 1: evenly spread, 1.5 suits molecules.
    """

    nodes: Count = 20
    grading: AtLeastOne = 1.0

    def _finer(self) -> dict[str, Any]:
        return {"nodes": 2 * self.nodes}

    def __str__(self) -> str:
        """The method with its nodes."""
        return f"gauss-legendre, {self.nodes} nodes" + (f", grading {self.grading:g}" if self.grading != 1.0 else "")
