"""Which settings fit which card, at Stable Diffusion 1.5's size and 512 px, and about how long a training takes.

    python -m app.fits                 all cards of the table
    python -m app.fits --card 8        a card with 8 GB

Memory and times are those of tattoo_lora.estimates, which the plan of a training has too: tensors counted on fake ones
with a margin for CUDA, and a roofline of arithmetic and traffic. Nothing of it was measured on a card.
"""

import argparse

from app.checks import check
from tattoo_lora.errors import one_line_errors
from tattoo_lora.estimates import CARDS, counted_memory, counted_speed, duration
from tattoo_lora.params import Range

MEMORY = Range(1, 1000)  # GB
SETTINGS = {"gradient_checkpointing: true": True, "as in the profile": False}
SAMPLES = (1, 2, 4, 8)  # at once, of an effective batch of 8
PICTURES = 1500 * 8  # of the profile's longest training


def fitting(memory_gb: float) -> list[tuple[str, int, float]]:
    """Setting, samples at once and GB, of all that fit the card's memory."""
    needed = [
        (name, n, counted_memory(n, is_checkpointed)) for name, is_checkpointed in SETTINGS.items() for n in SAMPLES
    ]
    return [row for row in needed if row[2] <= memory_gb]


def best_line(memory_gb: float) -> str:
    """What to set on a card with so much memory, in a line."""
    fits = fitting(memory_gb)
    if not fits:
        return f"too small: at least {counted_memory(1, True):.1f} GB"
    setting, samples, memory = fits[-1]
    return f"{setting}, {samples} at once: at least {memory:.1f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--card", type=float, help="a card's memory in GB")
    args = parser.parse_args()
    with one_line_errors():
        if args.card is not None:
            check("--card", args.card, MEMORY)
            lines = [f"{name}, {samples} at once: at least {gb:.1f} GB" for name, samples, gb in fitting(args.card)]
            print("\n".join(lines or [best_line(args.card)]))
        else:
            print("| card | memory | settings | longest training |\n|---|---:|---|---:|")
            for name, card in sorted(CARDS.items(), key=lambda named: (named[1].memory_gb, named[1].tflops)):
                fits = fitting(card.memory_gb)
                setting, samples, _ = fits[-1]
                time = duration(PICTURES / counted_speed(512, name, samples, SETTINGS[setting]))
                print(f"| {name} | {card.memory_gb} GB | {best_line(card.memory_gb)} | {time} |")
        print("Computed, not measured; times to a factor of two at best.")


if __name__ == "__main__":
    main()
