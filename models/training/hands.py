"""The hands that the corpus is drawn from (hands.yaml), their packages on disk, and SVGs of a subject in each.

OpenMoji has a package of its own form (openmoji.py); all others are Iconify's: icons.json holds the bodies of SVGs.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

HERE = Path(__file__).parent
GROUPS = ("coloured", "line", "unseen")
# Licences whose works may be shared, adapted, under CC BY-SA 4.0.
ALLOWED_LICENSES = {"MIT", "ISC", "Apache-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-4.0"}


@dataclass(frozen=True)
class Hand:
    """One designer's set of drawings. `group`: coloured, line or unseen."""

    name: str
    group: str
    package: str
    version: str
    license: str
    by: str
    styles: tuple[str, ...] = ("",)
    outlined: bool = True

    @property
    def archive(self) -> str:
        """What `npm pack` calls the package's file."""
        return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"


def read_hands() -> list[Hand]:
    """All hands of hands.yaml; ValueError for a licence that doesn't let the weights be shared."""
    table = yaml.safe_load((HERE / "hands.yaml").read_text(encoding="utf-8"))
    hands = [
        Hand(name, group, **{**row, "styles": tuple(row.get("styles", [""]))})
        for group in GROUPS
        for name, row in table[group].items()
    ]
    for hand in hands:
        if hand.license not in ALLOWED_LICENSES:
            raise ValueError(f"hands.yaml: {hand.name}: {hand.license} is none of {sorted(ALLOWED_LICENSES)}")
    return hands


def read_aliases() -> dict[str, list[str]]:
    """Other names of subjects among icons, from hands.yaml."""
    return yaml.safe_load((HERE / "hands.yaml").read_text(encoding="utf-8"))["also"]


def slug(name: str) -> str:
    """'snow-capped mountain' to snow-capped-mountain, as icon sets write names."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def stems(subject: str, aliases: dict[str, list[str]]) -> list[str]:
    """What an icon of the subject may be called, without the style's ending, best first."""
    names = [slug(subject)]
    if subject.endswith(" face"):
        animal = slug(subject.removesuffix(" face"))
        names += [f"{animal}-head", animal]
    return names + aliases.get(subject, [])


class IconSet:
    """The icons of one Iconify package, read from its .tgz; ValueError where it isn't what hands.yaml says."""

    def __init__(self, archive: Path, hand: Hand) -> None:
        with tarfile.open(archive) as tar:
            icons = json.load(tar.extractfile("package/icons.json"))
            info = json.load(tar.extractfile("package/info.json"))
        if info["license"]["spdx"] != hand.license:
            raise ValueError(f"{archive}: its licence is {info['license']['spdx']}, hands.yaml says {hand.license}")
        self.hand = hand
        self.icons = icons["icons"]
        self.aliases = {name: row["parent"] for name, row in icons.get("aliases", {}).items() if set(row) == {"parent"}}
        self.size = (icons.get("width", 16), icons.get("height", 16))

    def __contains__(self, name: str) -> bool:
        return name in self.icons or name in self.aliases

    def svg(self, name: str) -> str:
        """The icon as the text of an SVG, black where it has no colour of its own."""
        icon = self.icons[self.aliases.get(name, name)]
        width, height = icon.get("width", self.size[0]), icon.get("height", self.size[1])
        view = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        body = icon["body"].replace("currentColor", "#000000")
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}" width="{width}" height="{height}">{body}</svg>'
        )

    def find(self, subject: str, aliases: dict[str, list[str]]) -> str | None:
        """The name of the subject's icon, None where the hand hasn't drawn it."""
        for stem in stems(subject, aliases):
            for style in self.hand.styles:
                if stem + style in self:
                    return stem + style
        return None

    @cached_property
    def others(self) -> list[str]:
        """Names of icons in the hand's styles, in an order that their names alone decide, as if shuffled."""
        endings = tuple(style for style in self.hand.styles if style)
        plain = "" in self.hand.styles
        # Fills and variants of a plain style end in these words; they are other hands.
        foreign = ("-bold", "-fill", "-filled", "-light", "-thin", "-duotone", "-solid", "-remix", "-off")
        chosen = [
            name
            for name in self.icons
            if (endings and name.endswith(endings)) or (plain and not name.endswith(foreign))
        ]
        return sorted(chosen, key=lambda name: hashlib.sha256(f"{self.hand.name}:{name}".encode()).hexdigest())


def draw_subjects(icons: IconSet, subjects: list[str], aliases: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    """(subject, SVG) of each that the hand has drawn."""
    for subject in subjects:
        name = icons.find(subject, aliases)
        if name is not None:
            yield subject, icons.svg(name)
