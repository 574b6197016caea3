"""Which drawings show the same picture: the same file, the same when preprocessed, or pictures that look alike.

Pictures look alike where their perceptual hashes, or one's and that of the other's mirror image, differ in few bits,
and where the ink of each lies on the ink of the other. Hashes alone take a circle for a square, and all that stands
small in the same frame for one drawing.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.ndimage import maximum_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BLOCK = 32  # rows compared at once: memory grows with the number of drawings, not with its square
SLACK = 2  # px of the square of ink by which lines of a copy may lie elsewhere
# Of 1,428 copies (resized, JPEG, mirrored, with noise) 1.1% had a larger share, of 319 pairs of different motifs in
# one frame all but two, and those two look the same.
STRAY = 0.002


def to_words(hashes: Sequence[str]) -> np.ndarray:
    """(N, bits / 64) uint64 for N hex hashes of one length, a multiple of 64 bits."""
    return np.array([np.frombuffer(bytes.fromhex(h), dtype=">u8") for h in hashes]).astype(np.uint64)


def distances(one: np.ndarray, others: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """(B, N) bits in which the hashes one (B, W) differ from others (N, W) or their mirrored (N, W), the fewer."""
    found = None
    for hashes in (others, mirrored):
        bits = np.zeros((len(one), len(hashes)), dtype=np.uint16)
        for word in range(one.shape[1]):
            bits += np.bitwise_count(one[:, word, None] ^ hashes[None, :, word])
        found = bits if found is None else np.minimum(found, bits)
    return found


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
    """Groups of two or more of the positions 0 to count - 1 that the pairs join, directly or through others."""
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
    """Share of the strong ink that lies away from the other's."""
    return np.bitwise_count(strong & away).sum() / max(np.bitwise_count(strong).sum(), 1)
