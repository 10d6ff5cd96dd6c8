"""`boltzflow targets`."""

from boltzflow.cli import output


def run() -> None:
    """List the targets that are known by name.

    The PDB or mmCIF file of a molecule is a target, too: `boltzflow reference molecule.pdb --force-field amber14-all.xml
    implicit/gbn2.xml --temperature 300`, and likewise `boltzflow train`. Others are made in Python: boltzflow.targets.from_function
    takes any energy that JAX can differentiate, from_calculator any Python function, from_ase any calculator of ASE.
    """
    from boltzflow import targets

    output.table("", ("target", "description"), list(targets.names().items()))
