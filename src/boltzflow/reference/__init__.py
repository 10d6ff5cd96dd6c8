"""Reference configurations from a classical sampler: ground truth for training and for comparison."""

from boltzflow.reference.dynamics import molecular_dynamics as molecular_dynamics
from boltzflow.reference.relaxation import relax as relax
from boltzflow.reference.result import R_HAT_LIMIT as R_HAT_LIMIT
from boltzflow.reference.result import ReferenceResult as ReferenceResult
from boltzflow.reference.sampler import default_temperatures as default_temperatures
from boltzflow.reference.sampler import sample as sample
