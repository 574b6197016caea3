"""Train the miniature's two tokenizers on names, tags and caption templates: a BPE for CLIP, a WordPiece for BLIP.

    python train_tokenizers.py

Reads work/corpus/drawings.json, writes work/tokenizer and work/tokenizer_blip.
Byte-level BPE knows any input. WordPiece is BLIP's; what it never saw becomes [UNK], as with the original.
"""

import json
from pathlib import Path

from captions import COLOR_TEMPLATES, LINE_TEMPLATES, PLAIN_TEMPLATES, fill
from recipe import WORK
from tokenizers import BertWordPieceTokenizer, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, CLIPTokenizer

VOCAB_SIZE = 2048
MAX_TOKENS = 32
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def training_text(names: list[str], tags: list[list[str]]) -> list[str]:
    """Names and tags once; every template filled with every fiftieth name, so that its words become tokens."""
    templates = LINE_TEMPLATES + COLOR_TEMPLATES + PLAIN_TEMPLATES
    captions = [fill(template, name) for template in templates for name in names[::50]]
    return names * 3 + [" ".join(words) for words in tags] + captions


def train_clip_tokenizer(text: list[str], out: Path) -> CLIPTokenizer:
    """A CLIPTokenizer with a vocabulary of VOCAB_SIZE and at most MAX_TOKENS tokens a prompt, saved in `out`."""
    bpe = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    # CLIP's alphabet holds each byte twice, alone and as the end of a word: without both, a rare
    # letter such as the c of "c d" would be unknown.
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|startoftext|>", "<|endoftext|>"] + [f"{byte}</w>" for byte in sorted(alphabet)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=special, initial_alphabet=alphabet, end_of_word_suffix="</w>"
    )
    bpe.train_from_iterator(text, trainer)
    parts = json.loads(bpe.to_str())["model"]
    merges = [tuple(pair) for pair in parts["merges"]]
    tokenizer = CLIPTokenizer(vocab=parts["vocab"], merges=merges, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(out)
    return tokenizer


def train_blip_tokenizer(text: list[str], out: Path) -> BertTokenizer:
    """A BertTokenizer that also holds BLIP's [DEC], the token a caption starts with, saved in `out`."""
    wordpiece = BertWordPieceTokenizer(lowercase=True)
    wordpiece.train_from_iterator(text, vocab_size=VOCAB_SIZE - 1, min_frequency=1, show_progress=False)
    vocab = wordpiece.get_vocab()
    tokenizer = BertTokenizer(vocab=vocab, model_max_length=MAX_TOKENS, additional_special_tokens=["[DEC]"])
    tokenizer.save_pretrained(out)
    return tokenizer


def main() -> None:
    described = json.loads((WORK / "corpus/drawings.json").read_text(encoding="utf-8"))
    text = training_text(described["names"], described["tags"])
    for name, train in (("tokenizer", train_clip_tokenizer), ("tokenizer_blip", train_blip_tokenizer)):
        tokenizer = train(text, WORK / name)
        tokens = tokenizer.tokenize(fill(LINE_TEMPLATES[-1], "skull and crossbones"))
        print(f"{name}: {len(tokenizer)} tokens; {len(tokens)} in {tokens}")


if __name__ == "__main__":
    main()
