"""The versions of what computes: this package, JAX and its kin, and the programs that give energies of molecules."""

import contextlib
import importlib.metadata
import platform


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of what computes."""
    names = ("boltzflow", "jax", "jaxlib", "equinox", "diffrax", "optax", "blackjax", "numpy", "h5py")
    found = {"python": platform.python_version(), "platform": platform.platform()}
    found |= {name: importlib.metadata.version(name) for name in names}
    # What belongs to extras, where it is installed.
    for name in ("numba", "orbax-checkpoint", "openmm", "mdtraj", "ase", "tblite"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
