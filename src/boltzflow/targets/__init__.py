"""Targets: Boltzmann densities exp(-u(x)) of N particles in D dimensions."""

from boltzflow.targets.base import ExactValues as ExactValues
from boltzflow.targets.base import Target as Target
from boltzflow.targets.double_well import double_well as double_well
from boltzflow.targets.from_function import from_function as from_function
from boltzflow.targets.lennard_jones import lennard_jones as lennard_jones
from boltzflow.targets.registry import get as get
from boltzflow.targets.registry import names as names
