"""How the effective sample size of heavy-tailed weights fares as their number grows, and what is claimed of it.

python docs/figures/weights.py
"""

import numpy as np
from _style import BLUE, GREY, VERMILION, drawn, saved

from boltzflow.analysis import weights

SIZES = np.unique(np.geomspace(100, 30_000, 12).astype(int))


def main() -> None:
    """Draws several runs of weights with a Pareto tail of shape 0.7, whose second moment is infinite, beside those of a log-normal."""
    figure, axes = drawn(7.2, 2.8, columns=2, sharey=True)
    kinds = (
        ("log-normal weights, σ = 0.7", lambda rng, n: 0.7 * rng.standard_normal(n)),
        ("Pareto tail, k = 0.7", lambda rng, n: np.log1p(0.4 * (rng.random(n) ** -0.7 - 1.0))),
    )
    for axis, (title, make) in zip(axes, kinds, strict=True):
        for run in range(6):
            log_w = make(np.random.default_rng(run), int(SIZES[-1]))
            found = [weights.reverse_ess(log_w[:size]) for size in SIZES]
            value = 100 * np.array([one.value for one in found])
            axis.semilogx(SIZES, value, color=VERMILION if run == 0 else GREY, linewidth=1.8 if run == 0 else 0.7)
            if run == 0:
                ends = 100 * np.array([[one.low, one.high] for one in found])
                axis.fill_between(SIZES, *ends.T, color=BLUE, alpha=0.25, linewidth=0)
        axis.set(title=title, xlabel="samples", ylim=(0, 100))
    axes[0].set_ylabel("reverse ESS / %")
    saved(figure, "weights")


if __name__ == "__main__":
    main()
