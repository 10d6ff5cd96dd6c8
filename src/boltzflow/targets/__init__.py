"""Targets: Boltzmann densities exp(-u(x)) of N particles in D dimensions."""

from boltzflow.chemistry.chirality import ChiralCentre as ChiralCentre
from boltzflow.chemistry.chirality import chirality_signs as chirality_signs
from boltzflow.chemistry.chirality import find_chiral_centres as find_chiral_centres
from boltzflow.chemistry.symmetry import interchangeable as interchangeable
from boltzflow.targets.base import ExactValues as ExactValues
from boltzflow.targets.base import Target as Target
from boltzflow.targets.calculators import failures as failures
from boltzflow.targets.calculators import from_calculator as from_calculator
from boltzflow.targets.double_well import double_well as double_well
from boltzflow.targets.from_ase import from_ase as from_ase
from boltzflow.targets.from_ase import gfn2_xtb as gfn2_xtb
from boltzflow.targets.from_function import from_function as from_function
from boltzflow.targets.lennard_jones import lennard_jones as lennard_jones
from boltzflow.targets.molecule_files import from_amber as from_amber
from boltzflow.targets.molecule_files import from_charmm as from_charmm
from boltzflow.targets.molecule_files import from_gromacs as from_gromacs
from boltzflow.targets.molecule_files import from_pdb as from_pdb
from boltzflow.targets.molecule_files import from_xml as from_xml
from boltzflow.targets.molecules import from_openmm as from_openmm
from boltzflow.targets.peptides import alanine_dipeptide as alanine_dipeptide
from boltzflow.targets.peptides import peptide as peptide
from boltzflow.targets.registry import get as get
from boltzflow.targets.registry import name_of as name_of
from boltzflow.targets.registry import names as names
from boltzflow.targets.small_molecules import from_smiles as from_smiles
from boltzflow.targets.sources import from_source as from_source
