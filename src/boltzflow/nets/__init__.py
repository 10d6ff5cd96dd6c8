"""Networks: equivariant vector fields and the layers they are made of."""

from boltzflow.nets.base import AbstractSparseVectorField as AbstractSparseVectorField
from boltzflow.nets.base import AbstractVectorField as AbstractVectorField
from boltzflow.nets.egnn import EGNN as EGNN
from boltzflow.nets.two_interaction import TwoInteraction as TwoInteraction
