"""Samples of a flow: drawn, stored, exported."""

from boltzflow.sampling import conversion, reweighting, sample_file, writer
from boltzflow.sampling import export as exporting
from boltzflow.sampling.samples import Samples as Samples
from boltzflow.sampling.writer import SamplesWriter as SamplesWriter

# Samples know nothing of files, but are saved, loaded and exported by methods.
Samples.save = writer.save
Samples.load = staticmethod(sample_file.load)
Samples.export = exporting.export
Samples.to_mdtraj = conversion.to_mdtraj
Samples.to_ase = conversion.to_ase
Samples.reweighted = reweighting.reweighted
