"""Do two sets of reference frames of a peptide agree? Free-energy profiles of its backbone torsions, and F(φ > 0) - F(φ < 0).

    python tools/compare_reference.py TARGET A.h5 B.h5 [--force-field NAME ... --temperature KELVIN] [--bins 36] [--blocks 64] [--profiles]

TARGET and the options of a molecule's file are those of `boltzflow reference`, whose files these are. Intervals (95 %) come from a
bootstrap that draws blocks of consecutive frames. Frames are ordered chain by chain, so a block is a part of a chain, or several chains;
it must be much longer than the correlation, which with long intervals between frames is easily met.

Two profiles agree where the chi-square over their bins is one that equal densities give in more than 5 % of bootstrap replicas. Beside it
stand the bins whose two intervals overlap. Other stereoisomers of a chiral molecule are counted and left out; frames of a target that
mirror images leave as it is are as often of either enantiomer, so that F(φ > 0) - F(φ < 0) is zero there.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from boltzflow import datasets, targets
from boltzflow.analysis import agreement, free_energy, internal_coordinates
from boltzflow.analysis.estimate import Estimate
from boltzflow.chemistry.chirality import chirality_signs
from boltzflow.cli import molecules
from boltzflow.targets import Target


def read(path: Path, target: Target) -> np.ndarray:
    """Frames of the right enantiomer, in order; prints what the file says of them."""
    data = datasets.load(path, target)
    about = data.provenance
    print(f"{path.name}: {data.n} frames, {about.get('sampler')}, seed {about.get('seed')}, {about.get('chains')} chains")
    print(f"  mean energy {float(about['mean_energy']):.3f} ± {float(about['mean_energy_error']):.3f}, {about['virial_check']}")
    right = (chirality_signs(data.positions, target.chiral_centres) > 0).all(axis=1)
    if not right.all():
        print(f"  {int((~right).sum())} frames are another stereoisomer and are left out")
    return data.positions[right]


def overlapping(a: free_energy.Profile, b: free_energy.Profile) -> tuple[int, int]:
    """Bins whose two intervals overlap, of those that both sets visit. Constants are those of normalised densities."""
    both = np.isfinite(a.free_energy) & np.isfinite(b.free_energy)
    # A profile is zero at its minimum, whose noise must not move the rest.
    shifts = [math.log(np.sum(np.exp(-profile.free_energy) * np.diff(profile.edges))) for profile in (a, b)]
    overlap = (a.low + shifts[0] <= b.high + shifts[1]) & (b.low + shifts[1] <= a.high + shifts[0])
    return int(np.sum(overlap & both)), int(both.sum())


def difference(phi: np.ndarray, blocks: int) -> Estimate:
    """F(φ > 0) - F(φ < 0) in kT."""
    return free_energy.difference(np.zeros(phi.size), phi > 0, phi < 0, blocks=blocks)


def show(profiles: dict[str, free_energy.Profile], title: str) -> None:
    """Prints the profiles bin by bin."""
    table = Table("bin / °", *profiles, title=title)
    edges = np.degrees(next(iter(profiles.values())).edges)
    for number in range(edges.size - 1):
        cells = [f"{p.free_energy[number]:.2f} [{p.low[number]:.2f}, {p.high[number]:.2f}]" for p in profiles.values()]
        table.add_row(f"{edges[number]:.0f} to {edges[number + 1]:.0f}", *cells)
    Console().print(table)


def main() -> None:
    """Reads the command line and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("files", nargs=2, type=Path)
    parser.add_argument("--force-field", nargs="+", default=[])
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--bins", type=int, default=36)
    parser.add_argument("--blocks", type=int, default=agreement.BLOCKS)
    parser.add_argument("--profiles", action="store_true", help="print the profiles bin by bin")
    args = parser.parse_args()
    target: Any = molecules.from_words(args.target, tuple(args.force_field), args.temperature) or targets.get(args.target)
    frames = [read(path, target) for path in args.files]
    names = [path.stem for path in args.files]
    edges = np.linspace(-math.pi, math.pi, args.bins + 1)
    for residue in internal_coordinates.backbones(target.topology):
        for name, atoms in (("phi", residue.phi), ("psi", residue.psi)):
            angles = [internal_coordinates.torsions(positions, np.array([atoms]))[:, 0] for positions in frames]
            profiles = [free_energy.profile(np.zeros(a.size), a, edges, blocks=args.blocks) for a in angles]
            overlap, of = overlapping(*profiles)
            found = agreement.of_histograms(angles[0], angles[1], edges, blocks=args.blocks)
            print(f"{name} of {residue.label}: the profiles {found.sentence()};")
            print(f"  the intervals of {overlap} of {of} bins overlap")
            if args.profiles:
                show(dict(zip(names, profiles, strict=True)), f"F({name} of {residue.label}) / kT")
            if name == "phi":
                for label, phi in zip((*names, "both"), (*angles, np.concatenate(angles)), strict=True):
                    blocks = args.blocks * (2 if label == "both" else 1)
                    print(f"  F(phi > 0) - F(phi < 0) of {label}: {difference(phi, blocks)} kT")


if __name__ == "__main__":
    main()
