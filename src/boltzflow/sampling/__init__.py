"""Samples of a flow: drawn, stored, exported."""

from boltzflow.sampling import conversion, plots, reweighting, sample_file, views, writer
from boltzflow.sampling import export as exporting
from boltzflow.sampling.samples import Samples as Samples
from boltzflow.sampling.writer import SamplesWriter as SamplesWriter

# Samples know nothing of files and of plots, but are saved, loaded, exported and drawn by methods.
Samples.save = writer.save
Samples.load = staticmethod(sample_file.load)
Samples.export = exporting.export
Samples.plot_energy = plots.plot_energy
Samples.plot_weights = plots.plot_weights
Samples.plot_ramachandran = plots.plot_ramachandran
Samples.view = views.view
Samples.to_mdtraj = conversion.to_mdtraj
Samples.to_ase = conversion.to_ase
Samples.reweighted = reweighting.reweighted
