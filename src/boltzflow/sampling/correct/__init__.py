"""From a trained flow to its target, exactly: annealed populations and chains of Metropolis."""

from boltzflow.sampling.correct.metropolis import judged as judged
from boltzflow.sampling.correct.metropolis import metropolis as metropolis
from boltzflow.sampling.correct.smc import smc as smc

METHODS = {"metropolis": metropolis, "smc": smc}
"""The corrections by the name that the command line and `Model.sample` know them by."""
