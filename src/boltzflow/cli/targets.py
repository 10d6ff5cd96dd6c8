"""`boltzflow targets`."""

from boltzflow.cli import arguments, output


def run(plugin: arguments.Plugin = arguments.Words()) -> None:  # noqa: B008 (a tuple)
    """List the targets that are known by name.

    The PDB or mmCIF file of a molecule is a target, too: `boltzflow reference molecule.pdb --force-field amber14-all.xml
    implicit/gbn2.xml --temperature 300`, and likewise `boltzflow train`. Others are made in Python: boltzflow.targets.from_function
    takes any energy that JAX can differentiate, from_calculator any Python function, from_ase any calculator of ASE.

    Args:
        plugin: Modules, or .py files, whose targets are listed, too.
    """
    from boltzflow import plugins, targets

    for name in plugin:
        plugins.load(name)
    output.table("", ("target", "description"), list(targets.names().items()))
