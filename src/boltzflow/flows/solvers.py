"""The classical Runge-Kutta method for diffrax, and the choice of solver and step sizes from a configuration."""

from typing import ClassVar

import diffrax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from boltzflow.config import RK4 as RK4Options
from boltzflow.config import Adaptive, Dopri5


class RK4(diffrax.AbstractERK):
    """The classical fourth-order method, for fixed steps only: it has no embedded error estimate."""

    tableau: ClassVar[diffrax.ButcherTableau | diffrax.MultiButcherTableau] = diffrax.ButcherTableau(
        a_lower=(np.array([0.5]), np.array([0.0, 0.5]), np.array([0.0, 0.0, 1.0])),
        b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        b_error=np.array([0.0, 0.0, 0.0, 0.0]),
        c=np.array([0.5, 0.5, 1.0]),
    )
    interpolation_cls = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

    def order(self, terms: PyTree) -> int:
        """Order of convergence."""
        return 4


def position_and_density_norm(scaled_error: tuple[Array, Array, Array]) -> Float[Array, ""]:
    """Root mean square error of positions and log density; the path length is only looked at and must not steer the steps."""
    positions, log_density, _ = scaled_error
    return jnp.sqrt((jnp.sum(positions**2) + log_density**2) / (positions.size + 1))


def solver_and_controller(
    options: RK4Options | Adaptive,
) -> tuple[diffrax.AbstractERK, diffrax.AbstractStepSizeController, float | None, int]:
    """Solver, step-size controller, first step (None: chosen by the controller) and evaluations per step beyond the first."""
    if isinstance(options, RK4Options):
        return RK4(), diffrax.ConstantStepSize(), 1.0 / options.steps, 4
    solver = diffrax.Dopri5() if isinstance(options, Dopri5) else diffrax.Tsit5()
    controller = diffrax.PIDController(rtol=options.rtol, atol=options.atol, norm=position_and_density_norm)
    return solver, controller, None, 6
