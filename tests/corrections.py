"""Flows in closed form, cheap to compile and as wrong as a test wants them, for the corrections."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.errors import RunError
from boltzflow.flows import prior
from boltzflow.flows.base import AbstractFlow, FlowSolution
from boltzflow.progress import Silent
from boltzflow.sampling.samples import Samples
from boltzflow.sampling.writer import SamplesWriter
from boltzflow.targets.base import Target


class Scaling(eqx.Module):
    """The network of `Normal`."""

    log_width: Array


class Normal(AbstractFlow):
    """A normal of any width around a shift on the zero-CoM subspace; `broken` of its draws fail."""

    scaling: Scaling
    n_particles: int = eqx.field(static=True)
    dimension: int = eqx.field(static=True)
    scale: float = eqx.field(static=True, default=1.0)
    broken: float = eqx.field(static=True, default=0.0)

    @property
    def network(self) -> eqx.Module:
        return self.scaling

    def with_network(self, network: eqx.Module) -> Self:
        return eqx.tree_at(lambda flow: flow.scaling, self, network)

    @property
    def settings(self) -> dict[str, str]:
        return {"divergence": "exact", "solver": "none"}

    @property
    def mirror_symmetric(self) -> bool:
        return True

    @property
    def chunk_size(self) -> int:
        return 64

    def sample_and_log_prob(self, *, key: PRNGKeyArray) -> FlowSolution:
        key, key_fail = jax.random.split(key)
        latent = prior.sample(self.n_particles, self.dimension, key=key)
        found = self.log_prob(latent * jnp.exp(self.scaling.log_width) * self.scale)
        failed = jax.random.bernoulli(key_fail, self.broken)
        return found._replace(positions=latent * jnp.exp(self.scaling.log_width) * self.scale, status=jnp.where(failed, 2, 0))

    def log_prob(self, positions: Float[Array, "N D"], *, key: PRNGKeyArray | None = None) -> FlowSolution:
        latent = self._centred(positions) * jnp.exp(-self.scaling.log_width)
        freedom = (self.n_particles - 1) * self.dimension
        log_q = prior.log_prob(latent) - freedom * self.scaling.log_width - self._log_scale
        one, zero = jnp.ones((), jnp.int32), jnp.zeros(())
        return FlowSolution(latent, log_q, one, zero, zero, jnp.zeros((), jnp.int32))


def normal(target: Target, width: float, *, scale: float = 1.0, broken: float = 0.0) -> Normal:
    """A normal flow of a width in the target's units."""
    log_width = jnp.log(jnp.asarray(width / scale))
    shape = {"n_particles": target.n_particles, "dimension": target.dimension}
    return Normal(scaling=Scaling(log_width), **shape, scale=scale, broken=broken)


def goes_on_after_trouble(run: Callable[..., Samples], whole: Samples, path: Path, trouble: str, names: tuple[str, ...]) -> None:
    """Ctrl-C, or a disk that fills up, in the middle of a correction: what was done is in the file, and goes on to the same bits.

    Args:
        run: the correction, as a function of where to write, whether to resume, and whom to tell.
        whole: what it gives without trouble.
        path: where to write.
        trouble: "ctrl-c" or "full disk".
        names: columns of samples that must be the same.
    """
    append = SamplesWriter.append
    room = whole.n // 2

    class Impatient(Silent):
        total = 0

        def start(self, total: int, description: str) -> None:
            self.total = total

        def update(self, done: int, **fields: Any) -> None:
            # The preparation counts to 100.
            if self.total == whole.n > done >= room:
                raise KeyboardInterrupt

    def limited(writer: SamplesWriter, samples: Samples) -> None:
        if writer.n_written + samples.n > room:
            raise RunError(f"the disk is full; the {writer.n_written} samples written before are kept.")
        append(writer, samples)

    with pytest.MonkeyPatch.context() as patched:
        if trouble == "full disk":
            patched.setattr(SamplesWriter, "append", limited)
        with pytest.raises(RunError if trouble == "full disk" else KeyboardInterrupt, match="are kept" if trouble == "full disk" else None):
            run(out=path, resume=False, progress=Impatient() if trouble == "ctrl-c" else None)
    kept = Samples.load(path)
    assert whole.n // 4 <= kept.n < whole.n
    found = run(out=path, resume=True, progress=None)
    for name in names:
        np.testing.assert_array_equal(getattr(kept, name), getattr(whole, name)[: kept.n])
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
