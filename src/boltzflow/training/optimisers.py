"""Learning rates, and the optimisers that turn gradients into steps."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from boltzflow.config import Muon, Optimiser
from boltzflow.training import transforms
from boltzflow.training.parameters import flat, with_parameters


def schedule(options: Optimiser, steps: int) -> optax.Schedule:
    """Linear warm-up, then a cosine to the final learning rate.

    Args:
        options: the learning rates and the steps of the warm-up.
        steps: those of the stage.
    """
    warmup = min(options.warmup_steps, max(steps - 1, 0))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else options.learning_rate,
        peak_value=options.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=options.final_learning_rate,
    )


def optimiser(options: Optimiser, steps: int, network: eqx.Module) -> optax.GradientTransformationExtraArgs:
    """What turns the flat gradient of a stage into the step that is added to the flat parameters.

    From the outside in: steps that are not finite are left out, gradients clipped by the median norm, steps far above it left out,
    gradients clipped by their global norm, turned by Adam or Muon, weights decayed, the learning rate applied and the average kept.

    Args:
        options: the optimiser's.
        steps: those of the stage.
        network: what is trained, for the names and shapes of its parameters.
    """
    inner = optax.chain(
        optax.clip_by_global_norm(options.clip_norm),
        _muon(network) if isinstance(options, Muon) else optax.scale_by_adam(),
        *([_decay(options.weight_decay, network)] if options.weight_decay else []),
        transforms.scale_by_schedule(schedule(options, steps)),
        transforms.average(options.ema_decay),
    )
    if options.skip_median is not None:
        inner = transforms.skip_above_median(inner, options.skip_median)
    if options.clip_median is not None:
        inner = optax.chain(transforms.clip_by_median(options.clip_median), inner)
    return transforms.skip_nonfinite(inner)


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

    # The numbers of the state as one array: what guards the step selects it, which would be a program for each of a hundred arrays.
    def init(params: Any) -> optax.OptState:
        state = inner.init(unfolded(params))
        return flat(state), eqx.filter(state, eqx.is_inexact_array, inverse=True)

    def update(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        numbers, rest = cast(tuple[Array, Any], state)
        # Of the fresh state only the form counts.
        known = eqx.filter(with_parameters(inner.init(unfolded(params)), numbers), eqx.is_inexact_array)
        updates, after = inner.update(unfolded(updates), eqx.combine(known, rest), unfolded(params))
        return flat(updates), (flat(after), eqx.filter(after, eqx.is_inexact_array, inverse=True))

    return optax.GradientTransformation(init, update)


def _matrix(path: tuple[Any, ...], leaf: Array) -> optax.contrib.MuonDimensionNumbers | None:
    """Axes of the weight of a map, whose leading axes count the layers of stacks; None for other parameters."""
    if getattr(path[-1], "name", None) != "weight" or leaf.ndim < 2 or min(leaf.shape[-2:]) < 2:
        return None
    return optax.contrib.MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1)
