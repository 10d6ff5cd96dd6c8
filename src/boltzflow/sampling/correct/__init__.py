"""From a trained flow to its target, exactly: annealed populations and chains of Metropolis."""

from boltzflow.sampling.correct.smc import smc as smc
