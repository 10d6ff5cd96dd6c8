"""PDB files whose atoms share a name, or have none, as chemistry toolkits write them.

OpenMM takes atoms of one name in a residue for alternate locations of one atom, and drops all but one.
"""

import string

_DIGITS = string.digits + string.ascii_uppercase
_ATOMS = ("ATOM  ", "HETATM")
_NAME, _ELEMENT = slice(12, 16), slice(76, 78)


def with_own_names(text: str) -> tuple[str, dict[str, str]]:
    """The text with atoms renamed that share their name within a residue, or have none; alternate locations stay as they are.

    Returns:
        The text, and for each new name, which is like no other in the file, the old one.
    """
    lines = text.splitlines(keepends=True)
    used = {line[_NAME].strip() for line in lines if line.startswith(_ATOMS)}
    seen: dict[tuple[str, ...], int] = {}
    renamed: dict[tuple[str | int, ...], str] = {}
    old: dict[str, str] = {}
    free = iter(range(len(_DIGITS) ** 2))
    for number, line in enumerate(lines):
        if line.startswith("MODEL"):
            seen.clear()
        if not line.startswith(_ATOMS) or len(line) < 54:
            continue
        name = line[_NAME]
        key = (name, line[16], line[17:27])
        count = seen[key] = seen.get(key, -1) + 1
        if name.strip() and count == 0:
            continue
        # The same atom of each model gets the same name.
        place = (*key, count)
        if place not in renamed:
            stem = "".join(filter(str.isalpha, name))[:2] or line[_ELEMENT].strip().upper() or "X"
            fresh = next((new for k in free if (new := stem + _DIGITS[k // 36] + _DIGITS[k % 36]) not in used), None)
            if fresh is None:
                return text, {}
            renamed[place], old[fresh] = fresh, name.strip()
        lines[number] = line[: _NAME.start] + f"{renamed[place]:>4}" + line[_NAME.stop :]
    return "".join(lines), old
