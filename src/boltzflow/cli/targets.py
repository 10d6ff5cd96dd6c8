"""`boltzflow targets`."""

from boltzflow.cli import output


def run() -> None:
    """List the targets that are known by name.

    Other targets are made in Python: boltzflow.targets.from_function takes any energy that JAX can differentiate.
    """
    from boltzflow import targets

    output.table("", ("target", "description"), list(targets.names().items()))
