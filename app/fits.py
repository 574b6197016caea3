"""Which settings fit which card, at Stable Diffusion 1.5's size and 512 px, and about how long a training takes.

    python -m app.fits                 all cards of the table
    python -m app.fits --card 8        a card with 8 GB

Tensors were counted on fake ones, evaluation included, and a margin for CUDA and its workspaces is added. Nothing of it
was measured on a card.
"""

import argparse

from app.checks import check
from tattoo_lora.errors import one_line_errors
from tattoo_lora.estimates import CARDS, OVERHEAD, REACHED, TFLOP, duration
from tattoo_lora.params import Range

CARD = Range(1, 1000)  # GB
EVALUATION = 2.9  # GB of tensors while pictures are decoded beside the UNet, one at a time, in float32
SETTINGS = {  # GB of tensors in a training step, in half precision: fixed, and for each sample at once; FLOPs
    "gradient_checkpointing: true": (1.73, 0.23, 4 / 3),
    "as in the profile": (1.73, 0.83, 1.0),
}
SAMPLES = (1, 2, 4, 8)  # at once, of an effective batch of 8
PICTURES = 1500 * 8  # of the profile's longest training


def needed(setting: str, samples: int) -> float:
    """GB at least, the margin included, of a training with so many samples at once and of its evaluations."""
    fixed, each, _ = SETTINGS[setting]
    return max(fixed + samples * each, EVALUATION) + OVERHEAD


def fitting(memory_gb: float) -> list[tuple[str, int, float]]:
    """Setting, samples at once and GB, of all that fit the card's memory."""
    return [
        (setting, samples, needed(setting, samples))
        for setting in SETTINGS
        for samples in SAMPLES
        if needed(setting, samples) <= memory_gb
    ]


def seconds(setting: str, tflops: float) -> float:
    """Of the profile's longest training on a card with that peak."""
    return PICTURES * TFLOP * SETTINGS[setting][2] / (REACHED * tflops)


def best_line(memory_gb: float) -> str:
    """What to set on a card with so much memory, in a line."""
    fits = fitting(memory_gb)
    if not fits:
        return f"too small: at least {needed('gradient_checkpointing: true', 1):.1f} GB"
    setting, samples, memory = fits[-1]
    return f"{setting}, {samples} at once: at least {memory:.1f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--card", type=float, help="a card's memory in GB")
    args = parser.parse_args()
    with one_line_errors():
        if args.card is not None:
            check("--card", args.card, CARD)
            lines = [f"{name}, {samples} at once: at least {gb:.1f} GB" for name, samples, gb in fitting(args.card)]
            print("\n".join(lines or [best_line(args.card)]))
        else:
            print("| card | memory | settings | longest training |\n|---|---:|---|---:|")
            for name, (memory_gb, tflops) in sorted(CARDS.items(), key=lambda card: card[1]):
                fits = fitting(memory_gb)
                time = duration(seconds(fits[-1][0], tflops)) if fits else ""
                print(f"| {name} | {memory_gb} GB | {best_line(memory_gb)} | {time} |")
        print("Computed, not measured; times to a factor of two at best.")


if __name__ == "__main__":
    main()
