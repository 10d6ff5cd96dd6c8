"""Samples of a flow: drawn, stored, exported."""

from boltzflow.sampling.samples import Samples as Samples
from boltzflow.sampling.writer import SamplesWriter as SamplesWriter
