"""Molecular mechanics in JAX: any OpenMM system of forces that can be written down, compiled into the program that samples it."""

from boltzflow.chemistry.force_field.compile import check_system as check_system
from boltzflow.chemistry.force_field.compile import compile_system as compile_system
from boltzflow.chemistry.force_field.field import ForceField as ForceField
