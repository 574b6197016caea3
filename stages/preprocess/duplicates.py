"""Finding drawings that show the same picture: equal files, equal results of preprocessing, or similar pictures.

Pictures look alike where their perceptual hashes, or one's and that of the other's mirror image, differ in few bits,
and where the ink of each lies on the ink of the other. By hashes alone a circle equals a square, and
small motifs in the same frame look like one drawing.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath

import numpy as np
from scipy.ndimage import maximum_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stages.preprocess.prepare import INK, Candidate
from tattoo_lora.params import PreprocessParams

BLOCK = 32  # rows compared at once: memory grows with the number of drawings, not with its square
SLACK = 2  # px of the square of ink by which lines of a copy may lie elsewhere
# Of 1,428 copies (resized, JPEG, mirrored, with noise) 1.1% had a larger share, of 319 pairs of different motifs in
# one frame all but two, and those two look the same.
STRAY = 0.002


def to_words(hashes: Sequence[str]) -> np.ndarray:
    """(N, bits / 64) uint64 for N hex hashes of one length, a multiple of 64 bits."""
    return np.array([np.frombuffer(bytes.fromhex(h), dtype=">u8") for h in hashes]).astype(np.uint64)


def distances(one: np.ndarray, others: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """(B, N) bits in which the hashes one (B, W) differ from others or from mirrored (N, W): the fewer of the two."""
    fewest = None
    for hashes in (others, mirrored):
        bits = np.zeros((len(one), len(hashes)), dtype=np.uint16)
        for word in range(one.shape[1]):
            bits += np.bitwise_count(one[:, word, None] ^ hashes[None, :, word])
        fewest = bits if fewest is None else np.minimum(fewest, bits)
    return fewest


def near_pairs(hashes: Sequence[str], mirrored_hashes: Sequence[str], distance: int) -> Iterable[tuple[int, int]]:
    """Positions i < j of pictures whose hashes differ in at most `distance` bits."""
    words, mirrored = to_words(hashes), to_words(mirrored_hashes)
    for start in range(0, len(words), BLOCK):
        rows, columns = np.nonzero(distances(words[start : start + BLOCK], words[start:], mirrored[start:]) <= distance)
        yield from ((start + int(i), start + int(j)) for i, j in zip(rows, columns, strict=True) if i < j)


def same_pairs(keys: Sequence[str]) -> Iterable[tuple[int, int]]:
    """Positions of each key's first occurrence and of every later one."""
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        if first.setdefault(key, i) != i:
            yield first[key], i


def group(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The groups of two or more positions, of 0 to count - 1, that the pairs join directly or through others."""
    pairs = np.array(list(pairs), dtype=int).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    members = defaultdict(list)
    for position, label in enumerate(connected_components(graph, directed=False)[1]):
        members[label].append(position)
    return [positions for positions in members.values() if len(positions) > 1]


class Ink:
    """Where a drawing has ink and where a copy of it may have some, for quick comparison.

    `levels` (S, S), the drawing's ink in a square: 0 where there is none, 1 where it is faint, 2 where it is strong.
    """

    def __init__(self, levels: np.ndarray) -> None:
        self.strong = np.packbits(levels == 2)
        near = maximum_filter(levels, 2 * SLACK + 1) > 0
        self.away, self.away_mirrored = np.packbits(~near), np.packbits(~near[:, ::-1])
        self.strong_mirrored = np.packbits(levels[:, ::-1] == 2)

    def lies_on(self, other: "Ink") -> bool:
        """Whether both show the same ink, or one that of the other's mirror image: hardly any strays from the other's.

        A line that is strong in one may be faint in the other, which was made from a smaller or a noisy file.
        """
        return any(
            _stray(self.strong, away) <= STRAY and _stray(strong, self.away) <= STRAY
            for strong, away in ((other.strong, other.away), (other.strong_mirrored, other.away_mirrored))
        )


def _stray(strong: np.ndarray, away: np.ndarray) -> float:
    """The share of the strong ink that lies away from the other drawing's ink."""
    return np.bitwise_count(strong & away).sum() / max(np.bitwise_count(strong).sum(), 1)


@dataclass(frozen=True)
class Place:
    """A drawing's place among those that show the same picture."""

    decides: str  # the SHA-256 that decides whether it is held out: its own, or that of the first of its group
    group: str = ""  # the same for all of a group; empty for a drawing that is alone
    reason: str = ""  # how it shows what a kept one does; empty for one that is kept


def find_places(drawings: Sequence[Candidate], params: PreprocessParams) -> list[Place]:
    """The place of each drawing. Of a group one is kept: one with a caption of its own, then the largest.

    Of equally large ones it is the first by name, but for names that look like a copy's of another one's. Of a
    group that holds together through others alone, those are kept too that are no copies of a kept one. With
    duplicates `keep` all are.
    """
    outcomes = [drawing.outcome for drawing in drawings]
    alike = alike_pairs(drawings, params.duplicate_distance)
    same_bytes = same_pairs([outcome.sha256 for outcome in outcomes])
    same_pictures = same_pairs([outcome.png_sha256 for outcome in outcomes])
    places = [Place(outcome.sha256) for outcome in outcomes]
    for positions in group(len(drawings), [*same_bytes, *same_pictures, *sorted(alike)]):
        longer = has_a_name_within([drawings[i].file.source for i in positions])
        positions.sort(key=lambda i: _rank(drawings[i], longer))
        kept, first = [], outcomes[positions[0]].sha256
        for i in positions:
            reasons = (how_alike(drawings[i], drawings[k], (min(i, k), max(i, k)) in alike) for k in kept)
            reason = next(filter(None, reasons), "") if params.duplicates == "drop" else ""
            places[i] = Place(first, first[:8], reason)
            if not reason:
                kept.append(i)
    return places


def _rank(drawing: Candidate, longer: set[str]) -> tuple:
    """The drawing of a group with the lowest rank is kept."""
    file, outcome = drawing.file, drawing.outcome
    return not file.caption, -outcome.width * outcome.height, file.source in longer, file.source


def alike_pairs(drawings: Sequence[Candidate], distance: int) -> set[tuple[int, int]]:
    """Positions i < j of drawings whose hashes are near, and whose pictures are the same or have the same ink."""
    outcomes = [drawing.outcome for drawing in drawings]

    @cache
    def ink(i: int) -> Ink:
        return Ink(np.asarray(outcomes[i].picture(INK)))

    near = near_pairs([one.hash for one in outcomes], [one.mirrored_hash for one in outcomes], distance)
    return {(i, j) for i, j in near if outcomes[i].png_sha256 == outcomes[j].png_sha256 or ink(i).lies_on(ink(j))}


def how_alike(drawing: Candidate, kept: Candidate, looks_alike: bool) -> str:
    """How a drawing resembles the kept one; empty if it does not."""
    one, other = drawing.outcome, kept.outcome
    if one.sha256 == other.sha256:
        return f"same file as {kept.file.source}"
    if one.png_sha256 == other.png_sha256:
        return f"same picture as {kept.file.source}"
    if looks_alike:
        bits = distances(to_words([one.hash]), to_words([other.hash]), to_words([other.mirrored_hash]))[0, 0]
        return f"looks like ({bits} of {4 * len(one.hash)} bits differ) {kept.file.source}"
    return ""


def has_a_name_within(sources: list[str]) -> set[str]:
    """Those whose name is another's with something added, as a copy's is in any language: 'owl copy', 'owl (1)'."""
    stems = {source: PurePosixPath(source).stem.casefold() for source in sources}
    names = set(stems.values())
    return {source for source, stem in stems.items() if any(name in stem and name != stem for name in names)}
