"""Options of the optimisers."""

import dataclasses
from collections.abc import Iterator

from boltzflow.config.options import Options
from boltzflow.config.ranges import CountOrNone, Decay, NotNegative, Positive


@dataclasses.dataclass(frozen=True)
class Optimiser(Options, kind="optimiser"):
    """What turns gradients into steps.

    Example:
        >>> isinstance(bf.Muon(), bf.config.Optimiser)
        True

    Attributes:
        learning_rate: peak learning rate.
        final_learning_rate: learning rate at the end of the cosine schedule.
        warmup_steps: linear warm-up.
        weight_decay: decay of the weights, apart from the gradient; biases do not decay. 0: none.
        clip_norm: global gradient norm above which a step is scaled down.
        clip_median: scale a step down, too, to this many times the median norm of the last 100; null: no such limit.
        skip_median: leave out a step whose norm is more than this many times that median; null: no such limit.
        ema_decay: decay of the exponential moving average of the parameters; the average is what samples.
    """

    learning_rate: Positive = 5e-4
    final_learning_rate: NotNegative = 1e-6
    warmup_steps: CountOrNone = 200
    weight_decay: NotNegative = 0.0
    clip_norm: Positive = 10.0
    clip_median: Positive | None = None
    skip_median: Positive | None = None
    ema_decay: Decay = 0.999

    def problems(self) -> Iterator[tuple[str, str]]:
        """A schedule does not rise in the end."""
        if self.final_learning_rate > self.learning_rate:
            yield (
                "final_learning_rate",
                f"must not be above learning_rate ({self.learning_rate}), got {self.final_learning_rate}",
            )


@dataclasses.dataclass(frozen=True)
class Adam(Optimiser, name="adam"):
    """Adam (Kingma and Ba, 2015).

    Example:
        >>> bf.Adam(learning_rate=1e-3, warmup_steps=50).ema_decay
        0.999
    """


@dataclasses.dataclass(frozen=True)
class Muon(Optimiser, name="muon"):
    """Muon, which orthogonalises the steps of all weights (Jordan et al., 2024).

    Example:
        >>> bf.Stage(optimiser=bf.Muon(learning_rate=3e-3)).optimiser.variant
        'muon'
    """
