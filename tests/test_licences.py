"""Every package that is pinned has a licence that allows what it is used for, and stands in docs/licences.md as it is."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "licences.md").read_text()
PINNED_IN = ("bench.txt", "dev.txt", "docs.txt", "fuzz.txt", "go.txt", "nodeps.txt")

PERMISSIVE = frozenset(
    "0BSD Apache-2.0 BSD-2-Clause BSD-3-Clause CC0-1.0 CNRI-Python ISC MIT MIT-0 PSF-2.0 Zlib".split()  # noqa: SIM905
)
EXCEPTIONS = {"certifi": {"MPL-2.0"}, "tqdm": {"MPL-2.0"}, "nixl-cu12": {"LicenseRef-NvidiaProprietary"}}
"""What else is allowed to what users install; the page gives the reasons. Tools are held to nothing but being named."""

_IN_WORDS = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "isc license": "ISC",
    "unknown": "",
}
_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_BEGINNINGS = {"Apache License": "Apache-2.0"}


def pins() -> set[str]:
    found: set[str] = set()
    for name in PINNED_IN:
        text = (ROOT / "requirements" / name).read_text()
        found.update(canonicalize_name(match) for match in re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE))
    return found


@cache
def listed() -> dict[str, tuple[str, frozenset[str]]]:
    """What the page's table says: of each package its licence, and what uses it."""
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    found = {name: (licence.strip(), frozenset(users.strip().split(", "))) for name, licence, users in rows}
    assert len(found) == len(rows), "a package is there twice"
    return found


def installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def declared(package: Distribution) -> str:
    """The licence that a package says it has, as an SPDX expression."""
    metadata = package.metadata
    licence = metadata.get("License-Expression") or ""
    words = (metadata.get("License") or "").strip()
    if not licence and len(words) < 60:
        licence = _IN_WORDS.get(words.lower(), words)
    if not licence:
        classified = [text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier") or ()]
        licence = " AND ".join(sorted({_CLASSIFIERS[text] for text in classified if text in _CLASSIFIERS}))
    # What lies beside it under terms of its own.
    texts = [
        path.read_text() for path in package.files or () if "licenses/" in str(path) and path.suffix in ("", ".txt")
    ]
    if not licence:
        known = [
            name for beginning, name in _BEGINNINGS.items() for text in texts if text.strip().startswith(beginning)
        ]
        licence = " AND ".join(known)
    other = {each for text in texts for each in re.findall(r"SPDX-License-Identifier: (LicenseRef-\S+)", text)}
    return " AND ".join([licence, *sorted(other)])


def forbidden(licence: str, allowed: Iterable[str]) -> set[str]:
    """What of an SPDX expression is not allowed: all of it that AND joins, none of it where OR offers something that is."""
    allowed = set(allowed)
    return {
        choice
        for part in licence.split(" AND ")
        for choice in [part.strip("() ")]
        if not allowed & {each.strip("() ") for each in choice.split(" OR ")}
    }


@cache
def users() -> Mapping[str, frozenset[str]]:
    """What needs each package that is installed: the core, or extras, by what the packages say themselves."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    roots = {"core": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, set[str]] = {}
    for user, wanted in roots.items():
        ahead = [Requirement(text) for text in wanted]
        seen: set[tuple[str, str]] = set()
        while ahead:
            requirement = ahead.pop()
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            name = canonicalize_name(requirement.name)
            package = installed(name)
            for extra in ("", *requirement.extras):
                if package is None or (name, extra) in seen:
                    continue
                seen.add((name, extra))
                found.setdefault(name, set()).add(user)
                for text in package.requires or ():
                    further = Requirement(text)
                    if further.marker is None or further.marker.evaluate({"extra": extra}):
                        further.marker = None
                        ahead.append(further)
    return {name: frozenset(each) for name, each in found.items()}


def test_the_page_lists_what_is_pinned_and_nothing_else() -> None:
    assert set(listed()) == pins()


@pytest.mark.parametrize("name", sorted(pins()))
def test_a_package(name: str) -> None:
    licence, said = listed()[name]
    package = installed(name)
    if package is not None:
        assert licence == declared(package)
        # (What another Python needs besides is there too.)
        assert users().get(name, frozenset()) <= said
    assert said == {"dev"} or "dev" not in said
    if said != {"dev"}:
        assert not forbidden(licence, PERMISSIVE | EXCEPTIONS.get(name, set()))


def test_exceptions_are_few_and_have_their_reasons() -> None:
    reasons = PAGE.partition("## Exceptions")[2].partition("\n## ")[0]
    assert set(re.findall(r"^- `([^`]+)`", reasons, re.MULTILINE)) == set(EXCEPTIONS)
    for name, beyond in EXCEPTIONS.items():
        assert beyond <= forbidden(listed()[name][0], PERMISSIVE), "an exception that nothing needs"


def test_extras_that_are_not_wholly_permissive_say_so() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    comment = text.partition("\nnixl = ")[0].rpartition("# The engine of NIXL")[2]
    assert "proprietary" in comment


def test_wheels_with_libraries_in_them_are_looked_into() -> None:
    looked_into = PAGE.partition("## Libraries inside wheels")[2].partition("\n## ")[0]
    for name in pins():
        package = installed(name)
        if package is not None and any(".libs/" in str(path) for path in package.files or ()):
            assert f"`{name}`" in looked_into


@pytest.mark.parametrize(
    ("licence", "left"),
    [
        ("MIT", set()),
        ("MIT AND GPL-3.0-only", {"GPL-3.0-only"}),
        ("GPL-2.0-only OR BSD-3-Clause", set()),
        ("MPL-2.0 AND MIT", {"MPL-2.0"}),
        ("", {""}),
    ],
)
def test_expressions(licence: str, left: set[str]) -> None:
    assert forbidden(licence, PERMISSIVE) == left
