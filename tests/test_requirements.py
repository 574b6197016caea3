"""Versions stand in one place, what is installed is what is pinned, and its licences are listed."""

import re
from importlib.metadata import version

import pytest
from conftest import ROOT

FILES = sorted(ROOT.glob("requirements*.txt"))
PINS = [
    pin for file in FILES for pin in re.findall(r"(?m)^([\w.-]+)(?:\[\w+\])?==(\S+)$", file.read_text(encoding="utf-8"))
]
# What may stand in docs/licences.md without a line in its first table.
PERMISSIVE = (
    *("MIT", "BSD", "Apache", "PSF", "Python Software Foundation", "ISC", "Zope", "CC0", "MPL", "Mozilla"),
    *("HPND", "Unlicense"),
)
LICENCES = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
EXPLAINED, _, TABLE = LICENCES.partition("\n| package | version | licence |\n")
LISTED = re.findall(r"(?m)^\| ([\w.-]+) \| (\S+) \| (.+) \|$", TABLE)


def plain(name):
    """A package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name.lower())


def test_each_package_is_pinned_in_one_file():
    names = [plain(name) for name, _ in PINS]
    assert sorted(names) == sorted(set(names))
    for file in FILES:
        for line in file.read_text(encoding="utf-8").splitlines():
            assert re.match(r"#|-r |$|[\w.-]+(\[\w+\])?==\S+$", line), f"{file.name}: {line}"


@pytest.mark.parametrize(("name", "pinned"), PINS)
def test_what_is_installed_is_what_is_pinned_and_listed(name, pinned):
    if name == "ray":
        pytest.importorskip("ray")  # large and of no use to most: .ci/slow installs it for its tests
    assert version(name).split("+")[0] == pinned
    listed = {(plain(name), version) for name, version, _ in LISTED}
    assert name == "ray" or (plain(name), pinned) in listed, "write docs/licences.md anew: .ci/licences"


def test_every_licence_is_permissive_or_explained():
    assert len(LISTED) > 100
    for name, _, licence in LISTED:
        permissive = any(word in licence for word in PERMISSIVE) and "GPL" not in licence
        assert permissive or re.search(rf"[ ,]{re.escape(name)}[ ,]", EXPLAINED), f"{name}: {licence}"
