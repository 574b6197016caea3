"""Add the style suffix to each of BLIP's captions, cleaned and within the text encoder's limit. Text in, text out.

Reads captions_blip/ and captions_user.csv; writes captions_blip_plus/<stem>.txt and captions.csv, a table to read:
each caption of each drawing before and after, whose it is, the lengths in tokens, and what was changed.

    python -m stages.enrich data/processed/flash
"""

import argparse
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tattoo_lora.data.captions import read_captions, read_user_captions, write_caption
from tattoo_lora.data.file_names import caption_from_name
from tattoo_lora.data.tables import write_table
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.params import load_params, load_profile
from tattoo_lora.times import recorded_time

CountTokens = Callable[[str], int]
LONGEST_PHRASE = 6  # words; BLIP rarely repeats longer phrases
NO_WORDS = re.compile(r"\b(?:an? )?ara(?:f|ph)\w*\b,?", re.IGNORECASE)  # 'araffe', 'arafed': BLIP invents these words
# Thai to Burmese, Khmer, Chinese and Japanese: a whole sentence is one word to code that splits at blanks.
NO_BLANKS = re.compile("[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
NO_LAST_WORD = {"a", "an", "the", "of", "with", "and", "in", "on"}  # what a shortened caption must not end in


@dataclass(frozen=True)
class CaptionRow:
    """One row of captions.csv: one caption of a drawing."""

    file: str  # the name in images/
    origin: str  # user, name or blip
    caption: str
    tokens: int
    enriched: str
    enriched_tokens: int
    changes: str


def tidy(caption: str) -> str:
    """Single blanks, none before a comma, no empty or trailing comma."""
    caption = re.sub(r"\s*,(\s*,)*\s*", ", ", " ".join(caption.split()))
    return caption.strip(" ,，、")


def drop_no_words(caption: str) -> str:
    """The caption without the words that BLIP invents: 'arafed drawing of an owl' becomes 'drawing of an owl'."""
    return tidy(NO_WORDS.sub(" ", caption))


def drop_repeats(caption: str) -> str:
    """The caption without immediate repeats of a word or phrase: 'a rose a rose, rose' becomes 'a rose'.

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
                    # Keep the first, and after it what followed the second, such as a comma.
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


def clean(caption: str) -> str:
    """Tidied, without invented words and repeats."""
    return drop_repeats(drop_no_words(tidy(caption)))


def changes(caption: str, enriched: str, suffix: str) -> list[str]:
    """What enriching did to the caption, in a few words each."""
    suffix = drop_repeats(tidy(suffix))
    tidied, cleaned = tidy(caption), clean(caption)
    without = drop_no_words(tidied)
    before, after = strip_suffix(cleaned, suffix), strip_suffix(enriched, suffix)
    done = {
        "invented words removed": without != tidied,
        "repeats removed": cleaned != without,
        "shortened": len(after) < len(before),
        "suffix added": bool(suffix) and before == cleaned,
    }
    return [change for change, is_made in done.items() if is_made]


def shorten(words: list[str]) -> list[str]:
    """Drop one word, or one letter if the script is written without blanks or there is only one word."""
    *before, last = words
    if len(words) > 1 and not NO_BLANKS.search(last):
        return before
    while unicodedata.category(last[-1]).startswith("M") and len(last) > 1:  # an accent goes with its letter
        last = last[:-1]
    return [*before, last[:-1]] if len(last) > 1 else before


def enrich_caption(caption: str, suffix: str, count_tokens: CountTokens, max_tokens: int) -> str:
    """`<caption>, <suffix>` with at most `max_tokens`: the caption is cut at its end, the suffix stays whole.

    Idempotent. No word or phrase is repeated at once, not even where caption and suffix meet.
    """
    suffix = drop_repeats(tidy(suffix))
    words = strip_suffix(clean(caption), suffix).split()
    while words:
        shortened = tidy(" ".join(words))
        enriched = f"{shortened}, {suffix}" if suffix and shortened else shortened or suffix
        ends_well = shortened.rpartition(" ")[2].casefold() not in NO_LAST_WORD
        if ends_well and drop_repeats(enriched) == enriched and count_tokens(enriched) <= max_tokens:
            return enriched
        words = shorten(words)
    return suffix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("processed", type=Path, help="folder with captions_blip/ and captions_user.csv")
    args = parser.parse_args()
    with one_line_errors(), recorded_time():
        all_params = load_params()
        profile = load_profile(all_params.profile)
        folder = args.processed / "captions_blip"
        stems = sorted(path.stem for path in folder.glob("*.txt"))
        if not stems:
            raise UserError(f"{folder}: no captions; run `dvc repro caption_blip`")
        captions = read_captions(folder, stems)
        users = read_user_captions(args.processed / "captions_user.csv")

        # transformers is slow to import, so arguments are checked first.
        from tattoo_lora.diffusion.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(profile.base)

        def count_tokens(text: str) -> int:
            return len(tokenizer(text).input_ids)

        use_names = all_params.caption_blip.captions_from != "blip"
        suffix = all_params.enrich.suffix
        max_tokens = tokenizer.model_max_length
        if count_tokens(suffix) > max_tokens:
            raise UserError(f"params.yaml: enrich.suffix: {count_tokens(suffix)} tokens, allowed: at most {max_tokens}")
        out = args.processed / "captions_blip_plus"
        out.mkdir(parents=True, exist_ok=True)
        rows = []
        for stem, lines in captions.items():
            from_name = use_names and lines == [caption_from_name(stem)]
            origin = "user" if f"{stem}.png" in users else "name" if from_name else "blip"
            enriched_lines = [enrich_caption(caption, suffix, count_tokens, max_tokens) for caption in lines]
            write_caption(out, stem, *enriched_lines)
            for caption, enriched in zip(lines, enriched_lines, strict=True):
                lengths = count_tokens(caption), count_tokens(enriched)
                done = "; ".join(changes(caption, enriched, suffix))
                rows.append(CaptionRow(f"{stem}.png", origin, caption, lengths[0], enriched, lengths[1], done))
        write_table(args.processed / "captions.csv", CaptionRow, rows)
        print(f"{len(rows)} captions with ', {suffix}'")


if __name__ == "__main__":
    main()
