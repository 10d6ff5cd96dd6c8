"""The picture of the README: 2 000 samples of the shipped alanine dipeptide flow, as drawn and reweighted.

python docs/figures/alanine_dipeptide.py        # half a minute on one core
"""

import numpy as np
from _style import BLUE, GREY, VERMILION, drawn, saved

import boltzflow as bf
from boltzflow.analysis import internal_coordinates

N = 2_000


def main() -> None:
    """Draws the torsions of the samples, sized by weight, and the energies before and after reweighting."""
    model = bf.load_model("alanine-dipeptide-eacf")
    samples = model.sample(N, seed=0)
    backbone = internal_coordinates.backbones(model.target.topology)[0]
    phi, psi = np.degrees(internal_coordinates.torsions(samples.positions, np.array([backbone.phi, backbone.psi]))).T
    weight = np.exp(samples.log_weight - samples.log_weight.max())
    weight /= weight.mean()
    figure, (left, right) = drawn(7.6, 3.0, columns=2)
    left.scatter(phi, psi, s=2.0, color=VERMILION, alpha=0.35, linewidth=0, rasterized=True, label="drawn")
    left.scatter(phi, psi, s=np.minimum(6.0 * weight, 120.0), color=BLUE, alpha=0.45, linewidth=0, rasterized=True, label="size: weight")
    left.set(xlabel="φ / °", ylabel="ψ / °", xlim=(-180, 180), ylim=(-180, 180), aspect="equal")
    left.set(xticks=range(-180, 181, 90), yticks=range(-180, 181, 90), title="alanine dipeptide, 2 000 samples")
    left.legend(loc="lower right", markerscale=2)
    edges = np.linspace(-40.0, 0.0, 51)
    finite = np.isfinite(samples.u)
    right.hist(samples.u[finite], edges, density=True, color=VERMILION, alpha=0.45, label="drawn")
    right.hist(
        samples.u[finite], edges, weights=weight[finite], density=True, histtype="step", color=BLUE, linewidth=1.6, label="reweighted"
    )
    mean = samples.expectation(np.where(finite, samples.u, np.nan))
    right.axvline(mean.value, color=GREY, linewidth=0.8)
    right.set(xlabel="energy / kT", yticks=[], title=f"mean energy {mean.value:.1f} [{mean.low:.1f}, {mean.high:.1f}] kT")
    right.legend()
    saved(figure, "alanine_dipeptide")


if __name__ == "__main__":
    main()
