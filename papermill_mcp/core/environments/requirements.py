"""The packages that a client may ask for: names with versions (PEP 508), no addresses and no options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from papermill_mcp.errors import InvalidArgumentError

#: Packages of one request.
MAX_PACKAGES = 100

#: Characters of one requirement.
_MAX_CHARS = 500

#: The ends of names that installers take for files.
_ARCHIVES = (".whl", ".zip", ".egg", ".tar", ".tgz", ".tbz", ".txz", ".tlz")
_PACKED = re.compile(r"\.tar\.\w+$")

_ALLOWED = 'names with versions, such as "pandas" or "pandas[excel]>=2,<3"; no options, paths or addresses'
_STATE = "nothing was installed"


def requirements_of(packages: Sequence[str]) -> list[str]:
    """The requirements of a request in their normal form, each once.

    Raises:
        InvalidArgumentError: there are none or too many, or one is an option, a path or an address.
    """
    if not packages:
        raise InvalidArgumentError("packages is empty", allowed=_ALLOWED, state=_STATE)
    if len(packages) > MAX_PACKAGES:
        raise InvalidArgumentError(
            f"packages has {len(packages)} entries", allowed=f"at most {MAX_PACKAGES}", state=_STATE
        )
    return list(dict.fromkeys(_taken(place, text) for place, text in enumerate(packages)))


def name_of(requirement: str) -> str:
    """The normal name of the package that a checked requirement asks for."""
    return normal_name(Requirement(requirement).name)


def normal_name(name: str) -> str:
    """A name of a package as indexes write it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def fault_of(text: str) -> str | None:
    """Why a text is no name of a package with versions, as the end of a sentence; None if it is one."""
    if len(text) > _MAX_CHARS:
        return f"has more than {_MAX_CHARS} characters"
    if text.startswith("-"):
        return "is an option"
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return "is no requirement"
    if requirement.url is not None:
        return "names an address"
    if any(ord(char) < 32 for char in text):
        return "has a control character"
    if requirement.name.lower().endswith(_ARCHIVES) or _PACKED.search(requirement.name.lower()):
        return "is the name of a file"
    return None


def checked(text: str) -> str:
    """The normal form of a requirement without a fault."""
    return str(Requirement(text))


def merged(old: Sequence[Any], new: Sequence[str]) -> list[Any]:
    """A list of requirements with more of them. Each stands where the earlier one of its name stood.

    A bare name changes nothing where the name is there. Extras are kept; versions and markers are those of the new one,
    if it has some. Entries that are no requirements stay.
    """
    found = list(old)
    for one in new:
        names = [name_of(entry) if isinstance(entry, str) and fault_of(entry) is None else None for entry in found]
        if name_of(one) in names:
            place = names.index(name_of(one))
            found[place] = _both(found[place], one)
        else:
            found.append(one)
    return found


def _both(old: str, new: str) -> str:
    before, after = Requirement(old), Requirement(new)
    if not (after.specifier or after.extras or after.marker):
        return old
    after.extras |= before.extras
    after.specifier = after.specifier or before.specifier
    after.marker = after.marker or before.marker
    return old if Requirement(old) == after else str(after)


def _taken(place: int, text: str) -> str:
    fault = fault_of(text)
    if fault is not None:
        raise InvalidArgumentError(f"packages[{place}] {text[:100]!r} {fault}", allowed=_ALLOWED, state=_STATE)
    return checked(text)
