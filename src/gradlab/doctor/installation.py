"""Are the packages those that gradlab is made for? Needs none of them."""

import importlib.metadata
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from gradlab.doctor.finding import GOOD, NOTE, WRONG, Finding

LOCK = Path(__file__).resolve().parents[3] / "requirements" / "run.txt"
HOLES = {
    "torch": ("<2.10", "weights that are no safetensors can run code (CVE-2025-32434, CVE-2026-24747)"),
    "lightning": ("==2.6.2,==2.6.3,<2.6.6", "2.6.2 and 2.6.3 were malicious uploads, and 2.6.6 closed two holes"),
}
"""Versions with known holes that matter here; any one of the specifiers is enough."""


def look_at_installation() -> Iterator[Finding]:
    """Python, the supported ranges, the lock, and versions with known holes."""
    python = platform.python_version()
    ranges = [*_out_of_range()]
    yield from ranges
    yield from _holes()
    if not ranges:
        yield Finding("installation", GOOD, f"Python {python}, gradlab {_version('gradlab')}, packages in their ranges")
    yield from _beside_the_lock()


def _out_of_range() -> Iterator[Finding]:
    for text in importlib.metadata.requires("gradlab") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is None:
            said = f"{requirement.name} is not installed"
        elif not requirement.specifier.contains(found, prereleases=True):
            said = f"{requirement.name} {found} is not in the supported range {requirement.specifier}"
        else:
            continue
        yield Finding("installation", WRONG, said, f"pip install '{requirement.name}{requirement.specifier}'")


def _holes() -> Iterator[Finding]:
    for package, (specifiers, why) in HOLES.items():
        found = _version(package)
        if found and any(
            Requirement(f"x{one}").specifier.contains(found, prereleases=True) for one in specifiers.split(",")
        ):
            yield Finding("installation", WRONG, f"{package} {found}: {why}", f"pip install --upgrade {package}")


def _beside_the_lock() -> Iterator[Finding]:
    """Compared with the lock file of a source tree; an installation from a package has none."""
    if not LOCK.is_file():
        return
    locked = dict(_locked(LOCK.read_text()))
    others = {name: (_version(name), version) for name, version in locked.items() if _version(name) != version}
    if not others:
        yield Finding("installation", GOOD, f"all {len(locked)} packages as locked")
        return
    some = ", ".join(
        f"{name} {found or 'missing'} (locked: {wanted})" for name, (found, wanted) in sorted(others.items())[:5]
    )
    yield Finding(
        "installation",
        NOTE,
        f"{len(others)} of {len(locked)} packages are not as locked: {some}",
        "To have exactly the tested versions: bash scripts/train.sh, which installs the lock.",
    )


def _locked(text: str) -> Iterator[tuple[str, str]]:
    """Names and versions of a lock file that are meant for this machine."""
    for line in re.findall(r"^(\S+==[^\\\n]+)", text, re.MULTILINE):
        try:
            requirement = Requirement(line.strip())
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement.name, next(iter(requirement.specifier)).version


def _version(package: str) -> str | None:
    try:
        return str(Version(importlib.metadata.version(package)))
    except importlib.metadata.PackageNotFoundError:
        return None
