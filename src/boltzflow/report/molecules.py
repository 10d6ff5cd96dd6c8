"""The sections of a report that only molecules have: torsions, free-energy profiles, bonds and angles, hands."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from boltzflow.analysis import correlation, free_energy, internal_coordinates, metrics, ramachandran, weights
from boltzflow.analysis.estimate import significant
from boltzflow.analysis.internal_coordinates import Backbone
from boltzflow.report.contents import MAX_SAMPLES, Contents
from boltzflow.report.page import apart, escape, figure, numbers, section, sentence, thousands

# Of large molecules the first residues are shown, and as many kinds as fit a page.
MAX_RESIDUES = 3
MAX_KINDS = 12
_PROFILE_BINS = 60


def sections(run: Contents) -> Iterator[Callable[[Contents], str]]:
    """The functions that make these sections; none where the target is no molecule."""
    if run.target is not None and run.target.topology is not None and (run.samples is not None or run.data is not None):
        yield from (_torsions, _profiles, _lengths, _angles, _hands)


def _sources(run: Contents) -> dict[str, tuple[Any, Any]]:
    """Positions and log-weights of what is compared, as far as they are there."""
    found: dict[str, tuple[Any, Any]] = {}
    if run.data is not None:
        found["data"] = (np.asarray(run.shown_frames(MAX_SAMPLES)), None)
    if run.samples is not None:
        samples = run.samples.take(correlation.spread(run.samples.n, MAX_SAMPLES))
        usable = np.isfinite(samples.positions).all(axis=(1, 2))
        found["flow"] = (samples.positions[usable], None)
        log_w = samples.log_weight[usable]
        if np.isfinite(log_w).any():
            found["reweighted flow"] = (samples.positions[usable], log_w)
    return found


def _residues(run: Contents) -> list[Backbone]:
    return internal_coordinates.backbones(run.target.topology)[:MAX_RESIDUES]


def _torsions(run: Contents) -> str:
    from boltzflow.report import molecule_figures

    sources, content = _sources(run), ""
    for residue in _residues(run):
        angles = {
            name: internal_coordinates.torsions(positions, np.array([residue.phi, residue.psi])).T
            for name, (positions, _) in sources.items()
        }
        densities = {name: ramachandran.density(*angles[name], log_w=log_w) for name, (_, log_w) in sources.items()}
        parts = []
        for name, (_, log_w) in sources.items():
            if name != "data" and "data" in angles:
                blocks = correlation.of_series(*np.cos(angles["data"]), *np.sin(angles["data"])).blocks
                found = ramachandran.divergence(*angles["data"], *angles[name], log_w=log_w, blocks=blocks)
                bins = f"{ramachandran.BINS}×{ramachandran.BINS} bins"
                parts.append(f"Kullback-Leibler divergence of {name} from data over {bins}: {apart(found)}")
        drawn = molecule_figures.ramachandran(densities, residue.label)
        content += figure(drawn, sentence(parts), f"Ramachandran plots of {residue.label}: {', '.join(densities)}")
    return section("Ramachandran plots", content) if content else ""


def _profiles(run: Contents) -> str:
    from boltzflow.report import molecule_figures

    sources, content = _sources(run), ""
    edges = np.linspace(-math.pi, math.pi, _PROFILE_BINS + 1)
    for residue in _residues(run):
        panels: dict[str, dict[str, free_energy.Profile]] = {}
        parts = []
        for torsion, atoms in (("φ", residue.phi), ("ψ", residue.psi)):
            shown = {}
            for name, (positions, log_w) in sources.items():
                if name == "flow" and "reweighted flow" in sources:
                    continue
                values = internal_coordinates.torsions(positions, np.array([atoms]))[:, 0]
                log_w = np.zeros(len(values)) if log_w is None else log_w
                # Samples are independent, frames of chains are not.
                blocks = correlation.of_series(np.cos(values), np.sin(values)).blocks if name == "data" else None
                shown[name] = free_energy.profile(log_w, values, edges, blocks=blocks)
                if shown[name].note and torsion == "φ":
                    parts.append(f"no band of {name}: {escape(shown[name].note)}")
                if torsion == "φ" and (values > 0).any() and (values < 0).any():
                    blocks = correlation.of_series(values > 0).blocks if name == "data" else None
                    found = free_energy.difference(log_w, values > 0, values <= 0, blocks=blocks)
                    value, interval = numbers(found)
                    note = f" ({escape(found.note)})" if found.note else ""
                    if math.isfinite(found.value):
                        parts.append(f"F(φ > 0) − F(φ < 0) of {name}: {value} {interval} kT{note}")
                    else:
                        parts.append(f"{name}: all of the weight lies on one side of φ = 0{note}")
            panels[f"{torsion} of {residue.label}"] = shown
        alternative = f"Free-energy profiles along phi and psi of {residue.label}"
        content += figure(molecule_figures.profiles(panels), sentence(parts), alternative)
    return section("Free energy along the torsions", content) if content else ""


def _elements(run: Contents) -> list[str]:
    return [atom.element.symbol if atom.element is not None else "X" for atom in run.target.topology.atoms()]


def _lengths(run: Contents) -> str:
    bonds = np.array(sorted(tuple(sorted(pair)) for pair in run.target.bonds), np.int64).reshape(-1, 2)
    unit = run.units
    return _by_kind(run, "Bond lengths", bonds, internal_coordinates.bond_lengths, f"length / {unit}", degrees=False)


def _angles(run: Contents) -> str:
    triples = internal_coordinates.angles_of_bonds(run.target.bonds)
    return _by_kind(run, "Bond angles", triples, internal_coordinates.bond_angles, "angle / °", degrees=True)


def _by_kind(
    run: Contents,
    title: str,
    groups: Int[np.ndarray, "m g"],
    coordinate: Callable[[Any, Any], Float[np.ndarray, "n m"]],
    xlabel: str,
    *,
    degrees: bool,
) -> str:
    """Histograms of an internal coordinate, all groups of the same elements together; the most frequent kinds."""
    from boltzflow.report import molecule_figures

    symbols, sources = _elements(run), _sources(run)
    kinds: dict[str, list[int]] = {}
    for number, atoms in enumerate(groups):
        names = [symbols[atom] for atom in atoms]
        kinds.setdefault("–".join(min(names, names[::-1])), []).append(number)
    chosen = sorted(kinds, key=lambda kind: (-len(kinds[kind]), kind))[:MAX_KINDS]
    panels, worst = {}, ("", 0.0)
    for kind in chosen:
        values = {name: (coordinate(positions, groups[kinds[kind]]), log_w) for name, (positions, log_w) in sources.items()}
        low, high = np.quantile(values["data" if "data" in values else "flow"][0], [0.0005, 0.9995])
        edges = np.linspace(low - 0.25 * (high - low), high + 0.25 * (high - low), 61)
        panels[kind] = {name: metrics.histogram(found, edges, log_w=log_w) for name, (found, log_w) in values.items()}
        if "data" in panels[kind] and "flow" in panels[kind]:
            worst = max(worst, (kind, metrics.total_variation(panels[kind]["data"], panels[kind]["flow"])), key=lambda entry: entry[1])
    if not panels:
        return ""
    parts = [f"the largest total variation distance of flow from data is {worst[1]:.3f}, of {worst[0]}"] if worst[0] else []
    if len(kinds) > len(chosen):
        parts.append(f"{len(kinds) - len(chosen)} rarer kinds are not shown")
    drawn = molecule_figures.small_histograms(panels, xlabel, degrees=degrees)
    return section(title, figure(drawn, sentence(parts), f"{title} by kind: {', '.join(panels)}"))


def _hands(run: Contents) -> str:
    """How many samples have the hand of the reference at every centre."""
    from boltzflow.targets.chirality import hands

    if run.samples is None or not run.target.chiral_centres:
        return ""
    positions = run.samples.positions
    usable = np.isfinite(positions).all(axis=(1, 2))
    right = (hands(positions[usable], run.target.chiral_centres) == 1).all(axis=1)
    log_w = run.samples.log_weight[usable]
    parts = [f"{thousands(int((~right).sum()))} of {thousands(right.size)} samples have another hand than the reference at a chiral centre"]
    reflected = run.samples.meta.get("reflected")
    if reflected is not None:
        parts.append(f"{thousands(int(reflected))} mirror images were reflected, and log q counts both")
    if np.isfinite(log_w).any():
        parts.append(f"they carry {significant(100 * float(weights.normalized(log_w)[~right].sum()), 2)}\u202f% of the weight")
    return section("Chirality", f"<p>{sentence(parts)}</p>")
