"""Writes the present fingerprint of a registered target into files of an earlier version.

    python tools/renew_fingerprints.py FILE...

Since a fingerprint holds classes, reflections and bonds, and a hash of a molecule's system no longer depends on the order of its bonds,
files of molecules (and of QM9) from before are refused. This takes models (.safetensors and the .json beside them), data sets and samples
(.h5) whose fingerprint says the same but for these hashes, and asks for no more proof: data are tested again when they are loaded, by the
virial check, and shipped models by tests/physics.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import h5py
from safetensors import safe_open
from safetensors.numpy import load_file, save

from boltzflow import files, targets
from boltzflow.models.storage import sorted_header

_HASHES = re.compile(r"(, )?(?:system|symmetry)='[0-9a-f]{8}'")


def renewed(fingerprint: str) -> str:
    """The present fingerprint of the registered target that has this one but for its hashes."""
    for name in targets.names():
        present = targets.get(name).fingerprint
        if _plain(present) == _plain(fingerprint):
            return present
    raise SystemExit(f"no registered target has the fingerprint {fingerprint} but for its hashes")


def _plain(fingerprint: str) -> str:
    return _HASHES.sub("", fingerprint).replace("(, ", "(")


def renew(path: Path) -> None:
    """Renews one file."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata())
        metadata["fingerprint"] = renewed(metadata["fingerprint"])
        files.replace(path, sorted_header(save(load_file(path), metadata=metadata)))
    elif path.suffix == ".json":
        card = json.loads(path.read_text(encoding="utf-8"))
        # The text as it stands, but for the fingerprint.
        old, new = (json.dumps(text) for text in (card["fingerprint"], renewed(card["fingerprint"])))
        files.replace(path, path.read_text(encoding="utf-8").replace(old, new))
    else:
        _renew_hdf5(path)
    print(f"{path}: renewed")


def _renew_hdf5(path: Path) -> None:
    with h5py.File(path, "a") as file:
        attributes: Any = file.attrs
        if "meta" in attributes:
            meta = json.loads(attributes["meta"])
            attributes["meta"] = json.dumps({**meta, "fingerprint": renewed(meta["fingerprint"])})
        else:
            attributes["fingerprint"] = renewed(attributes["fingerprint"])


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        renew(Path(argument))
