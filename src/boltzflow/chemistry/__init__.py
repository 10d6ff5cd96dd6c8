"""Chemistry: what is known of a molecule before it is a target. Structures, bonds, chirality, symmetry, compiled force fields."""
