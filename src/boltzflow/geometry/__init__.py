"""Geometry of configurations: centre of mass, alignment, linear assignment."""
