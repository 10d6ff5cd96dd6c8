"""What weighted samples say: effective sample sizes, free energies, observables, each with n and a 95 % interval."""

from boltzflow.analysis import agreement as agreement
from boltzflow.analysis import free_energy as free_energy
from boltzflow.analysis import metrics as metrics
from boltzflow.analysis import observables as observables
from boltzflow.analysis import weights as weights
from boltzflow.analysis.estimate import Estimate as Estimate
