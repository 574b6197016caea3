"""Which drawings a batch or a measure takes: each hand as likely, whatever it has drawn."""

import torch
from corpus import Corpus


def by_hand(corpus: Corpus, kind: str, indices: list[int]) -> dict[str, list[int]]:
    """The rows `indices` of one kind, hand by hand."""
    hands: dict[str, list[int]] = {}
    for i in indices:
        hands.setdefault(corpus.rows[kind][i].hand, []).append(i)
    return hands


def choose(options: list, generator: torch.Generator):
    """One of the options, each as likely."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def spread_out(items: list, count: int) -> list:
    """At most `count` of the items, evenly spread over them."""
    return items if len(items) <= count else [items[i * len(items) // count] for i in range(count)]
