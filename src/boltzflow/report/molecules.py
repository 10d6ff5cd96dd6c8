"""The sections of a report that only molecules have: torsions, free-energy profiles, bonds and angles, chirality."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

from boltzflow.analysis import correlation, free_energy, internal_coordinates, metrics, ramachandran, weights
from boltzflow.analysis.estimate import Estimate
from boltzflow.analysis.internal_coordinates import Backbone
from boltzflow.report.contents import MAX_SAMPLES, Contents
from boltzflow.report.page import EMPTY, apart, figure, numbers, percent, section, sentence, thousands
from boltzflow.report.system import System, rotatable_torsions

# Of large molecules the first residues are shown, and as many kinds as fit a page.
MAX_RESIDUES = 3
MAX_KINDS = 12
MAX_TORSIONS = 8
_PROFILE_BINS = 60


def sections(run: Contents) -> Iterator[Callable[[Contents], Markup]]:
    """The functions that make these sections; none where the target is no molecule."""
    if run.system is not None and run.system.elements and run.system.dimension == 3 and (run.samples is not None or run.data is not None):
        yield from (_torsions, _profiles, _rotatable, _lengths, _angles, _hands)


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
    assert run.system is not None
    return [] if run.system.topology is None else internal_coordinates.backbones(run.system.topology)


def _torsions(run: Contents) -> Markup:
    from boltzflow.report import molecule_figures

    sources, content = _sources(run), EMPTY
    for residue in _residues(run)[:MAX_RESIDUES]:
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
    return section("Ramachandran plots", content) if content else EMPTY


def _profiles(run: Contents) -> Markup:
    from boltzflow.report import molecule_figures

    assert run.system is not None
    sources, content = _sources(run), EMPTY
    for residue in _residues(run)[:MAX_RESIDUES]:
        panels = {f"{torsion} of {residue.label}": _along(sources, atoms) for torsion, atoms in (("φ", residue.phi), ("ψ", residue.psi))}
        parts = []
        for name, (positions, log_w) in _compared(sources).items():
            note = panels[f"φ of {residue.label}"][name].note
            parts += [f"no band of {name}: {note}"] if note else []
            values = internal_coordinates.torsions(positions, np.array([residue.phi]))[:, 0]
            parts.append(_side_difference(run.system, name, values, np.zeros(len(values)) if log_w is None else log_w))
        parts += _known(run)
        alternative = f"Free-energy profiles along phi and psi of {residue.label}"
        content += figure(molecule_figures.profiles(panels, run.system.kilojoules), sentence(parts), alternative)
    return section("Free energy along the torsions", content) if content else EMPTY


def _rotatable(run: Contents) -> Markup:
    """Profiles along the torsions about rotatable bonds that no Ramachandran plot has shown."""
    from boltzflow.report import molecule_figures

    assert run.system is not None
    shown_bonds = {frozenset(atoms[1:3]) for residue in _residues(run) for atoms in (residue.phi, residue.psi)}
    torsions = [atoms for atoms in rotatable_torsions(run.system.elements, run.system.bonds) if frozenset(atoms[1:3]) not in shown_bonds]
    sources, content = _sources(run), EMPTY
    for begin in range(0, min(len(torsions), MAX_TORSIONS), 2):
        panels = {"–".join(run.system.names[atom] for atom in atoms): _along(sources, atoms) for atoms in torsions[begin : begin + 2]}
        content += figure(molecule_figures.profiles(panels, run.system.kilojoules), "", f"Free-energy profiles along {', '.join(panels)}")
    if not content:
        return EMPTY
    words = "Torsions about the bonds that the molecule can turn about, by the names of their four atoms."
    if len(torsions) > MAX_TORSIONS:
        words += f" {len(torsions) - MAX_TORSIONS} more are not shown."
    return section("Free energy along rotatable bonds", content, words=words)


def _compared(sources: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """What a free energy is shown of: not of the flow as it is drawn, where there are weights."""
    return {name: source for name, source in sources.items() if name != "flow" or "reweighted flow" not in sources}


def _along(sources: dict[str, tuple[Any, Any]], atoms: tuple[int, int, int, int]) -> dict[str, free_energy.Profile]:
    """Profiles along a torsion."""
    edges = np.linspace(-math.pi, math.pi, _PROFILE_BINS + 1)
    shown = {}
    for name, (positions, log_w) in _compared(sources).items():
        values = internal_coordinates.torsions(positions, np.array([atoms]))[:, 0]
        # Samples are independent, frames of chains are not.
        blocks = correlation.of_series(np.cos(values), np.sin(values)).blocks if name == "data" else None
        shown[name] = free_energy.profile(np.zeros(len(values)) if log_w is None else log_w, values, edges, blocks=blocks)
    return shown


def _side_difference(system: System, name: str, values: Float[np.ndarray, " n"], log_w: Float[np.ndarray, " n"]) -> str:
    """The free energy of positive phi above that of negative phi in words; which side is empty if one is."""
    counted = np.isfinite(log_w)
    for side, inside in (("φ > 0", values > 0), ("φ < 0", values <= 0)):
        if not (inside & counted).any():
            return f"{name} has nothing at {side}"
    blocks = correlation.of_series(values > 0).blocks if name == "data" else None
    found = free_energy.difference(log_w, values > 0, values <= 0, blocks=blocks)
    value, interval = numbers(found)
    if not math.isfinite(found.value):
        return f"{name}: all of the weight lies on one side of φ = 0{f' ({found.note})' if found.note else ''}"
    others = "; ".join(part for part in (system.energy_in_words(found.value), found.note) if part)
    return f"F(φ > 0) − F(φ < 0) of {name}: {value} kT {interval}{f' ({others})' if others else ''}"


def _known(run: Contents) -> list[str]:
    """The same of the reference frames that a shipped model learned from, as its card has it."""
    entry = (run.card.get("reference") or {}).get("phi_difference")
    if not isinstance(entry, dict) or run.data is not None or len(_residues(run)) != 1:
        return []
    known = Estimate.from_dict(entry)
    value, interval = numbers(known)
    return [f"of {thousands(known.n)} reference frames: {value} kT {interval}"]


def _lengths(run: Contents) -> Markup:
    assert run.system is not None
    bonds = np.array(sorted(tuple(sorted(pair)) for pair in run.system.bonds), np.int64).reshape(-1, 2)
    unit = {"nm": "nm", "angstrom": "Å"}.get(run.units, f"{run.units} units")
    return _by_kind(run, "Bond lengths", bonds, internal_coordinates.bond_lengths, f"length / {unit}", degrees=False)


def _angles(run: Contents) -> Markup:
    assert run.system is not None
    triples = internal_coordinates.angles_of_bonds(run.system.bonds)
    return _by_kind(run, "Bond angles", triples, internal_coordinates.bond_angles, "angle / °", degrees=True)


def _by_kind(
    run: Contents,
    title: str,
    groups: Int[np.ndarray, "m g"],
    coordinate: Callable[[Any, Any], Float[np.ndarray, "n m"]],
    xlabel: str,
    *,
    degrees: bool,
) -> Markup:
    """Histograms of an internal coordinate, all groups of the same elements together; the most frequent kinds."""
    from boltzflow.report import molecule_figures

    assert run.system is not None
    symbols, sources = run.system.elements, _sources(run)
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
        return EMPTY
    parts = [f"the largest total variation distance of flow from data is {worst[1]:.3f}, of {worst[0]}"] if worst[0] else []
    if len(kinds) > len(chosen):
        parts.append(f"{len(kinds) - len(chosen)} rarer kinds are not shown")
    drawn = molecule_figures.small_histograms(panels, xlabel, degrees=degrees)
    return section(title, figure(drawn, sentence(parts), f"{title} by kind: {', '.join(panels)}"))


def _hands(run: Contents) -> Markup:
    """How many samples have the chirality of the reference at every centre."""
    from boltzflow.chemistry.chirality import chirality_signs

    if run.samples is None or run.system is None or not run.system.chiral_centres:
        return EMPTY
    positions = run.samples.positions
    usable = np.isfinite(positions).all(axis=(1, 2))
    right = (chirality_signs(positions[usable], run.system.chiral_centres) == 1).all(axis=1)
    log_w = run.samples.log_weight[usable]
    parts = [
        f"{thousands(int((~right).sum()))} of {thousands(right.size)} samples have another chirality than the reference at a chiral centre"
    ]
    reflected = run.samples.meta.get("reflected")
    if reflected is not None:
        parts.append(f"{thousands(int(reflected))} mirror images were reflected, and log q counts both")
    if np.isfinite(log_w).any():
        parts.append(f"they carry {percent(float(weights.normalized(log_w)[~right].sum()))} of the weight")
    return section("Chirality", words=sentence(parts))
