"""Samples of a flow: drawn, stored, exported."""

from boltzflow.sampling import export as exporting
from boltzflow.sampling import sample_file, writer
from boltzflow.sampling.samples import Samples as Samples
from boltzflow.sampling.writer import SamplesWriter as SamplesWriter

# Samples know nothing of files, but are saved, loaded and exported by methods.
Samples.save = writer.save
Samples.load = staticmethod(sample_file.load)
Samples.export = exporting.export
