"""Models: trained flows with their targets and cards, saved, loaded and shipped."""

from boltzflow.models.model import Model as Model
from boltzflow.models.storage import load_model as load_model
from boltzflow.models.storage import save_model as save_model
from boltzflow.models.storage import shipped_models as shipped_models
