"""Training: the loop, its checkpoints, and trained models on disk."""

from boltzflow.training.export import Model as Model
from boltzflow.training.export import load_model as load_model
from boltzflow.training.loop import train as train
from boltzflow.training.run import Run as Run
from boltzflow.training.run import fit as fit
