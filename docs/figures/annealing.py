"""Densities on the way from a flow to its target and on to the square of the target over the flow, on a line.

python docs/figures/annealing.py
"""

import numpy as np
from _style import BLUE, GREY, VERMILION, drawn, saved


def main() -> None:
    """Draws q, p, and p²/q of a flow that is thin where the target has its second mode."""
    x = np.linspace(-4.0, 4.0, 801)
    log_p = np.logaddexp(-0.5 * ((x + 1.2) / 0.5) ** 2, -0.5 * ((x - 1.4) / 0.4) ** 2)
    log_q = np.logaddexp(-0.5 * ((x + 1.1) / 0.7) ** 2, np.log(0.12) - 0.5 * ((x - 1.2) / 0.8) ** 2)
    figure, (axis,) = drawn(7.2, 2.5)
    for b, color, label, width in (
        (0.0, VERMILION, "b = 0: the flow q", 1.8),
        (0.5, GREY, "b = 1/2", 0.9),
        (1.0, BLUE, "b = 1: the target p", 1.8),
        (1.5, GREY, None, 0.9),
        (2.0, "#009e73", "b = 2: p²/q", 1.8),
    ):
        log_f = (1.0 - b) * log_q + b * log_p
        f = np.exp(log_f - log_f.max())
        axis.plot(x, f / np.trapezoid(f, x), color=color, linewidth=width, label=label)
    axis.set(xlabel="x", ylabel="density", xlim=(-3.5, 3.5), ylim=(0, None), yticks=[])
    axis.legend()
    saved(figure, "annealing")


if __name__ == "__main__":
    main()
