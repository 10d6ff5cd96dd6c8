"""GFN2-xTB energies on a farm: alanine dipeptide drawn by the shipped model, reweighted from its force field to the quantum chemistry.

    python xtb_on_dask.py dask://HOST:PORT OUT [N]

Needs the extras `molecules`, `xtb` and `cluster`. The same script runs on other engines, by another executor:

    from mpi4py.futures import MPIPoolExecutor          # mpiexec -n 33 python -m mpi4py.futures xtb_on_dask.py ...
    executor = MPIPoolExecutor()

    import submitit                                     # a job of SLURM for each piece of a batch
    executor = submitit.AutoExecutor(folder="jobs")
    executor.update_parameters(timeout_min=60, cpus_per_task=1)
"""

import sys
from pathlib import Path

import numpy as np

import boltzflow as bf


def main(executor: str, out: Path, n: int) -> None:
    model = bf.load_model("alanine-dipeptide")
    samples = model.sample(n, seed=0, out=out / "samples.h5", resume=True)
    quantum = bf.targets.gfn2_xtb(model.target, solvent="water", executor=executor)
    reweighted = samples.reweighted(quantum)
    reweighted.save(out / "xtb.h5", overwrite=True)
    print(f"{n} energies, {bf.targets.failures(quantum).failed} failed; reverse ESS {reweighted.ess()}")
    print(f"mean reduced energy {reweighted.expectation(np.asarray(reweighted.u))}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 10_000)
