"""Reference configurations from a classical sampler: ground truth for training and for comparison."""

from boltzflow.reference.sampler import ReferenceResult as ReferenceResult
from boltzflow.reference.sampler import sample as sample
