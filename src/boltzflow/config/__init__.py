"""The typed configuration of a run: what is trained on what, and how; importable without JAX.

`boltzflow.config.io` reads configurations from YAML and applies overrides. What a variant can do stands elsewhere: flows and networks are
built by `boltzflow.flows.build`, objectives are those of `boltzflow.objectives`.
"""

from boltzflow.config.flows import EACF as EACF
from boltzflow.config.flows import ECNF as ECNF
from boltzflow.config.flows import EGNN as EGNN
from boltzflow.config.flows import Base as Base
from boltzflow.config.flows import Cartesian as Cartesian
from boltzflow.config.flows import Equivariant as Equivariant
from boltzflow.config.flows import Flow as Flow
from boltzflow.config.flows import Harmonic as Harmonic
from boltzflow.config.flows import Network as Network
from boltzflow.config.flows import NoProjection as NoProjection
from boltzflow.config.flows import Normal as Normal
from boltzflow.config.flows import Projection as Projection
from boltzflow.config.flows import Spherical as Spherical
from boltzflow.config.flows import TwoInteraction as TwoInteraction
from boltzflow.config.flows import Vector as Vector
from boltzflow.config.molecule import Molecule as Molecule
from boltzflow.config.objectives import FAB as FAB
from boltzflow.config.objectives import AugmentedLikelihood as AugmentedLikelihood
from boltzflow.config.objectives import AugmentedPathGradient as AugmentedPathGradient
from boltzflow.config.objectives import AugmentedReverseKL as AugmentedReverseKL
from boltzflow.config.objectives import Cooling as Cooling
from boltzflow.config.objectives import DirectionName as DirectionName
from boltzflow.config.objectives import DivergenceName as DivergenceName
from boltzflow.config.objectives import EquivariantOptimalTransport as EquivariantOptimalTransport
from boltzflow.config.objectives import EstimatorName as EstimatorName
from boltzflow.config.objectives import FlowMatching as FlowMatching
from boltzflow.config.objectives import Independent as Independent
from boltzflow.config.objectives import MaximumLikelihood as MaximumLikelihood
from boltzflow.config.objectives import Objective as Objective
from boltzflow.config.objectives import OptimalTransport as OptimalTransport
from boltzflow.config.objectives import Pairing as Pairing
from boltzflow.config.objectives import PairingName as PairingName
from boltzflow.config.objectives import PathGradient as PathGradient
from boltzflow.config.objectives import PathName as PathName
from boltzflow.config.objectives import ReverseKL as ReverseKL
from boltzflow.config.optimisers import Adam as Adam
from boltzflow.config.optimisers import Muon as Muon
from boltzflow.config.optimisers import Optimiser as Optimiser
from boltzflow.config.options import Options as Options
from boltzflow.config.options import differences as differences
from boltzflow.config.options import fields_of as fields_of
from boltzflow.config.options import plain as plain
from boltzflow.config.run import DataConfig as DataConfig
from boltzflow.config.run import Precision as Precision
from boltzflow.config.run import RunConfig as RunConfig
from boltzflow.config.run import RunOptions as RunOptions
from boltzflow.config.run import Stage as Stage
from boltzflow.config.solvers import RK4 as RK4
from boltzflow.config.solvers import Adaptive as Adaptive
from boltzflow.config.solvers import BruteForce as BruteForce
from boltzflow.config.solvers import Divergence as Divergence
from boltzflow.config.solvers import Dopri5 as Dopri5
from boltzflow.config.solvers import Exact as Exact
from boltzflow.config.solvers import GaussLegendre as GaussLegendre
from boltzflow.config.solvers import Hutchinson as Hutchinson
from boltzflow.config.solvers import Solver as Solver
from boltzflow.config.solvers import Tsit5 as Tsit5
