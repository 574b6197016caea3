"""Add the style suffix to BLIP's captions, tidied and within the text encoder's limit. Text in, text out.

Reads captions_blip/; writes captions_blip_plus/<stem>.txt.

    python -m stages.enrich data/processed/flash/captions_blip --out data/processed/flash/captions_blip_plus
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from tattoo_lora.captions import read_captions, write_caption
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.params import load_params, load_profile

CountTokens = Callable[[str], int]
LONGEST_PHRASE = 6  # words; what BLIP repeats is rarely longer
NO_LAST_WORD = {"a", "an", "the", "of", "with", "and", "in", "on"}  # what a shortened caption must not end in


def tidy(caption: str) -> str:
    """Single blanks, none before a comma, no empty or trailing comma."""
    caption = re.sub(r"\s*,(\s*,)*\s*", ", ", " ".join(caption.split()))
    return caption.strip(" ,")


def drop_repeats(caption: str) -> str:
    """The caption without a word or phrase that stands next to itself: 'a rose a rose, rose' is 'a rose'.

    Words are compared without case and the commas around them.
    """
    words = caption.split()
    changed = True
    while changed:
        changed = False
        keys = [word.strip(",").casefold() for word in words]
        for length in range(1, LONGEST_PHRASE + 1):
            for i in range(len(words) - 2 * length + 1):
                if keys[i : i + length] == keys[i + length : i + 2 * length]:
                    # Keep the first; what followed the second, such as its comma, follows the first now.
                    words[i + length - 1 : i + 2 * length] = [words[i + 2 * length - 1]]
                    changed = True
                    break
            if changed:
                break
    return " ".join(words)


def strip_suffix(caption: str, suffix: str) -> str:
    """The caption without the suffix, or the part of it, that it already ends in; enriching twice adds it once."""
    phrases, wanted = caption.split(", "), suffix.split(", ")
    while len(phrases) >= len(wanted) and [p.casefold() for p in phrases[-len(wanted) :]] == [
        w.casefold() for w in wanted
    ]:
        phrases = phrases[: -len(wanted)]
    return ", ".join(phrases)


def enrich_caption(caption: str, suffix: str, count_tokens: CountTokens, max_tokens: int) -> str:
    """`<caption>, <suffix>` with at most `max_tokens`: the caption is shortened word by word, the suffix never.

    Idempotent. No word or phrase stands next to itself, at the joint neither.
    """
    suffix = drop_repeats(tidy(suffix))
    words = strip_suffix(drop_repeats(tidy(caption)), suffix).split()
    while words:
        shortened = tidy(" ".join(words))
        enriched = f"{shortened}, {suffix}" if suffix and shortened else shortened or suffix
        ends_well = shortened.rpartition(" ")[2].casefold() not in NO_LAST_WORD
        if ends_well and drop_repeats(enriched) == enriched and count_tokens(enriched) <= max_tokens:
            return enriched
        words.pop()
    return suffix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path, help="folder of BLIP's captions")
    parser.add_argument("--out", type=Path, required=True, help="folder for the enriched captions")
    args = parser.parse_args()
    with one_line_errors():
        all_params = load_params()
        profile = load_profile(all_params.profile)
        stems = sorted(path.stem for path in args.captions.glob("*.txt"))
        if not stems:
            raise UserError(f"{args.captions}: no captions; run `dvc repro caption_blip`")
        captions = read_captions(args.captions, stems)

        from tattoo_lora.tokenizer import load_tokenizer  # transformers takes its time; arguments come first

        tokenizer = load_tokenizer(profile.base_model, profile.base_revision)

        def count_tokens(text: str) -> int:
            return len(tokenizer(text).input_ids)

        suffix = all_params.enrich.suffix
        max_tokens = tokenizer.model_max_length
        if count_tokens(suffix) > max_tokens:
            raise UserError(f"params.yaml: enrich.suffix: {count_tokens(suffix)} tokens, allowed: at most {max_tokens}")
        args.out.mkdir(parents=True, exist_ok=True)
        for stem, caption in captions.items():
            write_caption(args.out, stem, enrich_caption(caption, suffix, count_tokens, max_tokens))
        print(f"{len(captions)} captions with ', {suffix}'")


if __name__ == "__main__":
    main()
