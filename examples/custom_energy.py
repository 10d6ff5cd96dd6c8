"""Your own energy as a target: five particles on springs, from reference data to a reweighted observable.

Run with `python examples/custom_energy.py`; it takes about a minute. The exact answers are known: the mean reduced energy is half the
number of degrees of freedom, 6, and log Z is 6 ln(2 pi / 4).
"""

import tempfile

import jax.numpy as jnp
import numpy as np

import boltzflow as bf


def energy(x):
    """Reduced energy of one configuration (N, D); springs to the centre of mass."""
    x = x - jnp.mean(x, axis=0)
    return 2.0 * jnp.sum(x**2)


def main() -> None:
    target = bf.targets.from_function(energy, n_particles=5, dimension=3, name="springs")
    data = bf.reference.sample(target, 4_000, seed=0)
    print(data.sentence())
    with tempfile.TemporaryDirectory() as folder:
        run = bf.fit(
            target,
            data,
            flow=bf.ECNF(bf.TwoInteraction(depth=1, hidden=16, radial=16, channels=4)),
            stages=[bf.Stage(optimiser=bf.Adam(learning_rate=2e-3), steps=600, batch_size=128)],
            out=f"{folder}/springs",
        )
        samples = run.sample(1_000, seed=1)
    print("reverse ESS ", samples.ess())
    print("log Z       ", samples.log_z(), " exact:", round(6 * np.log(2 * np.pi / 4), 3))
    print("mean energy ", samples.expectation(samples.u), " exact: 6")


if __name__ == "__main__":
    main()
