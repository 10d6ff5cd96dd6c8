"""Equivariant coupling layers: frames, projections, the layers themselves, and scaling."""

from boltzflow.flows.coupling.layer import CouplingLayer as CouplingLayer
from boltzflow.flows.coupling.plain import PlainCoupling as PlainCoupling
from boltzflow.flows.coupling.projections import Cartesian as Cartesian
from boltzflow.flows.coupling.projections import Projection as Projection
from boltzflow.flows.coupling.projections import Spherical as Spherical
from boltzflow.flows.coupling.projections import Vector as Vector
from boltzflow.flows.coupling.scaling import Scaling as Scaling
from boltzflow.flows.coupling.stack import CouplingStack as CouplingStack
