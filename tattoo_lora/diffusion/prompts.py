"""How texts become what the UNet is conditioned on: the same way in training, validation and sampling."""

import functools
import sys

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """input_ids (B, T) of B texts, padded or cut to the tokenizer's T tokens; a line says what is lost."""
    limit = tokenizer.model_max_length
    lost = {}
    for text in dict.fromkeys(texts):
        input_ids = tokenizer(text, verbose=False).input_ids  # the library's own warning speaks of errors to come
        if len(input_ids) > limit:
            lost[text] = tokenizer.decode(input_ids[limit - 1 : -1])  # the last is the end of the text
    if lost:
        first, end = next(iter(lost.items()))
        say_once(f"{len(lost)} text(s) longer than {limit} tokens are cut; of {first[:40]!r}… this is lost: {end!r}")
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


@functools.cache
def say_once(line: str) -> None:
    """Print the line to stderr: a training that trains the text encoder too encodes the same texts many times."""
    print(line, file=sys.stderr)


@torch.inference_mode()
def encode_prompts(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, texts: list[str]) -> Tensor:
    """(B, T, D) float32 last hidden states on the CPU for B texts."""
    batches = tokenize(tokenizer, texts).split(64)
    hidden = [text_encoder(input_ids.to(text_encoder.device)).last_hidden_state for input_ids in batches]
    return torch.cat([batch.float().cpu() for batch in hidden])
