"""Growing and shrinking pictures of two colours without joining, parting or filling anything."""

from functools import cache

import numpy as np
from skimage.measure import label

AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # clockwise from above


@cache
def simple_points() -> np.ndarray:
    """For each pattern of the eight pixels around one, a bit for each of AROUND that is ink: may it change its colour?

    It may if that changes neither how many pieces of ink there are, which hang together over corners, nor how many of
    white, which do not (Kong and Rosenfeld, Digital topology: introduction and survey, 1989).
    """
    table = np.zeros(256, dtype=bool)
    for pattern in range(256):
        ink = np.zeros((3, 3), dtype=bool)
        for bit, (down, right) in enumerate(AROUND):
            ink[1 + down, 1 + right] = pattern >> bit & 1
        white = ~ink
        white[1, 1] = False
        whites = label(white, connectivity=1)
        beside = {int(whites[1 + down, 1 + right]) for down, right in AROUND[::2]} - {0}
        table[pattern] = label(ink, connectivity=2).max() == 1 and len(beside) == 1
    return table


def patterns(flat: np.ndarray, places: np.ndarray, width: int) -> np.ndarray:
    """The pattern around each of the places in a flattened picture that has a white frame."""
    bits = np.zeros(len(places), dtype=np.int64)
    for bit, (down, right) in enumerate(AROUND):
        bits |= flat[places + down * width + right].astype(np.int64) << bit
    return bits


def grow(seed: np.ndarray, target: np.ndarray, order: np.ndarray) -> np.ndarray:
    """`seed` (H, W) grown into `target`, lowest `order` (in whole numbers) first; pieces and holes stay as many.

    Where two parts would meet, a pixel of white stays between them.
    """
    width = seed.shape[1] + 2
    flat = np.pad(seed, 1).ravel()
    wanted = np.flatnonzero(np.pad(target & ~seed, 1))
    rank = np.pad(order, 1).ravel()[wanted]
    rows = wanted // width
    # No two pixels of one quarter touch, so they may change at once.
    quarter = (rows % 2) * 2 + (wanted - rows * width) % 2
    table = simple_points()
    left = np.zeros(0, dtype=np.int64)  # indices into wanted
    for number in np.unique(rank):
        left = np.concatenate([left, np.flatnonzero(rank == number)])
        grown = True
        while grown:
            grown = False
            for part in range(4):
                places = wanted[left[quarter[left] == part]]
                free = places[table[patterns(flat, places, width)]]
                flat[free] = True
                grown |= len(free) > 0
            left = left[~flat[wanted[left]]]
    return flat.reshape(-1, width)[1:-1, 1:-1]


def erase(picture: np.ndarray, pixels: np.ndarray) -> None:
    """Make the pixels (N, 2) of a framed picture white, one after the other, as far as that parts nothing."""
    flat, width = picture.reshape(-1), picture.shape[1]
    table = simple_points()
    for place in pixels @ [width, 1]:
        if table[patterns(flat, np.array([place]), width)[0]]:
            flat[place] = False
