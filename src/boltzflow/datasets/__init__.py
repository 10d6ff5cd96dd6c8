"""Data sets: configurations of a target with their provenance, checked when they are loaded."""

from boltzflow.datasets.dataset import Dataset as Dataset
from boltzflow.datasets.loading import checked as checked
from boltzflow.datasets.loading import checked_before as checked_before
from boltzflow.datasets.loading import frames_in as frames_in
from boltzflow.datasets.loading import load as load
from boltzflow.datasets.loading import of as of
from boltzflow.datasets.loading import right_enantiomers as right_enantiomers
from boltzflow.datasets.stored import holds as holds
from boltzflow.datasets.stored import read as read
from boltzflow.datasets.virial import VirialCheck as VirialCheck
from boltzflow.datasets.virial import has_gradient as has_gradient
from boltzflow.datasets.virial import virial_check as virial_check
