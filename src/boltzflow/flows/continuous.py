"""The equivariant continuous normalizing flow (E-CNF): prior and vector field, sampled and evaluated by integrating an ODE."""

import dataclasses
import math
from typing import Any, Self, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from boltzflow.config import RK4, Adaptive, DivergenceName, Dopri5, GaussLegendre, Hutchinson, Solver
from boltzflow.flows import prior, quadrature
from boltzflow.flows.base import AbstractFlow, FlowSolution
from boltzflow.flows.divergence import draw_probes, velocity_and_divergence
from boltzflow.flows.status import Status
from boltzflow.nets.base import AbstractVectorField

# Pairs of particles times dimensions over all configurations of a compiled call. On a CPU their tangents stay in the cache
# (benchmarks/sampling.py); for an accelerator the number is a guess that has not been measured.
_PAIRS = {"cpu": 8_192, "accelerator": 1_000_000}


class ContinuousFlow(AbstractFlow):
    """Normal prior on the zero-CoM subspace, transported by dx/dt = v(t, x) from t = 0 to t = 1 (Chen et al., 2018; Köhler et al., 2020).

    Methods act on one configuration; `vmap` them. All densities are on the zero-CoM subspace, in data units.

    Example:
        >>> config = bf.ECNF(network=bf.EGNN(hidden=4, layers=1), solver=bf.GaussLegendre(nodes=2))
        >>> flow = bf.flows.build_flow(config, target, 1.0, key=jax.random.key(0))
        >>> type(flow).__name__
        'ContinuousFlow'

    Attributes:
        field: the vector field, in units of the prior.
        n_particles: N.
        dimension: D.
        scale: one unit of the prior in data units.
        solver: how the ODE is integrated.
    """

    field: AbstractVectorField
    n_particles: int = eqx.field(static=True)
    dimension: int = eqx.field(static=True)
    scale: float = eqx.field(static=True, default=1.0)
    solver: Solver = eqx.field(static=True, default=Dopri5())

    @property
    def network(self) -> AbstractVectorField:
        """The vector field."""
        return self.field

    def with_network(self, network: eqx.Module) -> Self:
        """The same flow with another vector field.

        Args:
            network: a vector field of the same shapes.
        """
        return eqx.tree_at(lambda flow: flow.field, self, network)

    @property
    def settings(self) -> dict[str, str]:
        """Divergence and solver."""
        return {"divergence": self._divergence, "solver": str(self.solver)}

    @property
    def unsaid(self) -> str:
        """Probes and the largest number of steps, where they count."""
        return self.solver.unsaid

    @property
    def _divergence(self) -> DivergenceName:
        return cast(DivergenceName, self.solver.divergence.variant)

    @property
    def mirror_symmetric(self) -> bool:
        """Always: vector fields are equivariant under reflections, too."""
        return True

    @property
    def tempered(self) -> bool:
        """Whether the vector field is one of the temperature, too."""
        return self.field.log_temperature is not None

    def at_temperature(self, temperature: float | Float[Array, ""]) -> Self:
        """The flow whose vector field is that of another temperature, as a multiple of the target's.

        Args:
            temperature: as a multiple of the target's.
        """
        if not self.tempered:
            return super().at_temperature(temperature)
        return self.with_network(self.field.at(jnp.log(jnp.asarray(temperature))))

    def finer(self) -> Self:
        """With a finer solver and the exact divergence; see `config.Solver.finer`."""
        return dataclasses.replace(self, solver=self.solver.finer())

    @property
    def chunk_size(self) -> int:
        """Configurations whose tangents fit into the cache together."""
        room = _PAIRS["cpu" if jax.default_backend() == "cpu" else "accelerator"] / (self.n_particles**2 * self.dimension)
        return 2 ** min(max(round(math.log2(room)), 0), 10)

    def sample_and_log_prob(self, *, key: PRNGKeyArray) -> FlowSolution:
        """Draws one configuration with its log density.

        Args:
            key: of the random numbers.
        """
        prior_key, probe_key = jax.random.split(key)
        latent = prior.sample(self.n_particles, self.dimension, key=prior_key)
        return self.push_forward(latent, key=probe_key)

    def push_forward(self, latent: Float[Array, "N D"], *, key: PRNGKeyArray | None = None) -> FlowSolution:
        """Transports a latent configuration to data; `key` is needed for the Hutchinson estimate only.

        Args:
            latent: (N, D) in units of the prior.
            key: of the probes; None: always the same ones.
        """
        end, change, solution = self._solve(latent, 0.0, 1.0, key)
        log_q = prior.log_prob(latent) - change - self._log_scale
        return solution._replace(positions=end * self.scale, log_q=log_q)

    def log_prob(self, positions: Float[Array, "N D"], *, key: PRNGKeyArray | None = None) -> FlowSolution:
        """Log density of a configuration in data units, its centre of mass removed first; `positions` of the result is the latent.

        Args:
            positions: (N, D) in data units.
            key: of the probes of Hutchinson's estimate; None: always the same ones.
        """
        latent, change, solution = self._solve(self._centred(positions), 1.0, 0.0, key)
        log_q = prior.log_prob(latent) + change - self._log_scale
        return solution._replace(positions=latent, log_q=log_q)

    def _solve(
        self, start: Float[Array, "N D"], t0: float, t1: float, key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "N D"], Float[Array, ""], FlowSolution]:
        """End point, integral of the divergence along the path, and the record of the solve."""
        probes = None
        solver, divergence = self.solver, self.solver.divergence
        if isinstance(divergence, Hutchinson):
            probes = draw_probes(divergence.probes, self.n_particles, self.dimension, key=jax.random.key(0) if key is None else key)
        if isinstance(solver, GaussLegendre):
            options = {"grading": solver.grading, "method": self._divergence, "probes": probes}
            end, change, length = quadrature.transport(self.field, start, solver.nodes, reverse=t1 < t0, **options)
            solved, nfe, reached = True, jnp.asarray(4 * (solver.nodes + 1)), jnp.asarray(t1)
        else:
            end, change, length, solved, nfe, reached = self._integrate(start, t0, t1, probes)
        # A solver that shrinks its steps in vain, or steps past a pole, is told by the field itself.
        finite = jnp.all(jnp.isfinite(end) & jnp.isfinite(self.field(reached.astype(end.dtype), end))) & jnp.isfinite(change)
        reached_end = jnp.where(solved, int(Status.SOLVED), int(Status.MAX_STEPS))
        status = jnp.where(~finite, int(Status.NOT_FINITE), reached_end).astype(jnp.int32)
        distance = jnp.sqrt(jnp.sum((end - start) ** 2))
        return end, change, FlowSolution(end, change, nfe.astype(jnp.int32), length, distance, status)

    def _integrate(
        self, start: Float[Array, "N D"], t0: float, t1: float, probes: Float[Array, "P N D"] | None
    ) -> tuple[Array, Array, Array, Array, Array, Array]:
        """End point, integral of the divergence, path length, success, evaluations and the time reached, by a solver of diffrax."""
        # Takes half a second to import, and most flows are integrated without it.
        import diffrax

        from boltzflow.flows.solvers import solver_and_controller

        def velocity(t: Any, state: tuple[Array, Array, Array], _: PyTree) -> tuple[Array, Array, Array]:
            v, divergence = velocity_and_divergence(self.field, jnp.asarray(t), state[0], method=self._divergence, probes=probes)
            # The speed is signed so that the path length grows in both directions of time.
            return v, divergence, jnp.sqrt(jnp.sum(v**2)) * (1.0 if t1 > t0 else -1.0)

        if not isinstance(self.solver, RK4 | Adaptive):
            raise TypeError(f"{self.solver.variant} is no solver of diffrax")
        most = self.solver.steps + 1 if isinstance(self.solver, RK4) else self.solver.max_steps
        solver, controller, first_step, stages = solver_and_controller(self.solver)
        zero = jnp.zeros((), start.dtype)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            solver,
            t0,
            t1,
            None if first_step is None else first_step * (t1 - t0),
            (start, zero, zero),
            stepsize_controller=controller,
            max_steps=most,
            throw=False,
        )
        end, change, length = jax.tree.map(lambda a: a[-1], solution.ys)
        nfe = stages * solution.stats["num_steps"] + (1 if stages == 6 else 0)
        return end, change, length, solution.result == diffrax.RESULTS.successful, nfe, jnp.asarray(solution.ts)[-1]
