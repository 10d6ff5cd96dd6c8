"""Learning rates, and the optimisers that turn gradients into steps."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from boltzflow.config import TrainingConfig
from boltzflow.training.parameters import flat, with_parameters


def schedule(config: TrainingConfig) -> optax.Schedule:
    """Linear warm-up, then a cosine to the final learning rate."""
    warmup = min(config.warmup_steps, max(config.steps - 1, 0))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(config.steps, warmup + 1),
        end_value=config.final_learning_rate,
    )


def optimiser(config: TrainingConfig, network: eqx.Module) -> optax.GradientTransformation:
    """Adam or Muon, on gradients clipped by their global norm; the learning rate is applied in the step.

    Args:
        config: the optimiser and its options.
        network: what is trained, for the shapes of its weights.
    """
    clip = optax.clip_by_global_norm(config.clip_norm)
    steps = _muon(network) if config.optimiser == "muon" else optax.scale_by_adam()
    decay = [_decay(config.weight_decay, network)] if config.weight_decay else []
    return optax.chain(clip, steps, *decay)


def _decay(weight_decay: float, network: eqx.Module) -> optax.GradientTransformation:
    """Adds a share of the parameters to the step, but for biases: what they shift would only be pulled to zero."""

    def update(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        parts = eqx.filter(with_parameters(network, params), eqx.is_inexact_array)
        decaying = jax.tree_util.tree_map_with_path(lambda path, part: jnp.zeros_like(part) if _is_bias(path) else part, parts)
        return updates + weight_decay * flat(decaying), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _is_bias(path: tuple[Any, ...]) -> bool:
    return str(getattr(path[-1], "name", "")).endswith("bias")


def _muon(network: eqx.Module) -> optax.GradientTransformation:
    """Muon for the weights of maps, Adam for all else; steps of one size, so that one learning rate serves both.

    Source: Jordan et al., 2024; the common size is that of Liu et al., arXiv:2502.16982.
    """
    matrices = jax.tree_util.tree_map_with_path(_matrix, eqx.filter(network, eqx.is_inexact_array))
    inner = optax.contrib.muon(
        # Updates of the sign of the gradient, as those of Adam above.
        learning_rate=-1.0,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=lambda _: matrices,
    )

    def unfolded(parameters: Any) -> Any:
        return eqx.filter(with_parameters(network, parameters), eqx.is_inexact_array)

    def init(params: Any) -> optax.OptState:
        return inner.init(unfolded(params))

    def update(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        updates, state = inner.update(unfolded(updates), state, unfolded(params))
        return flat(updates), state

    return optax.GradientTransformation(init, update)


def _matrix(path: tuple[Any, ...], leaf: Array) -> optax.contrib.MuonDimensionNumbers | None:
    """Axes of the weight of a map, whose leading axes count the layers of stacks; None for other parameters."""
    if getattr(path[-1], "name", None) != "weight" or leaf.ndim < 2 or min(leaf.shape[-2:]) < 2:
        return None
    return optax.contrib.MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1)
