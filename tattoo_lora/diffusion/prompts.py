"""How texts become what the UNet is conditioned on: the same way in training, validation and sampling."""

import sys

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """input_ids (B, T) of B texts, padded or cut to the tokenizer's T tokens; a warning says what is cut."""
    too_long = [text for text in dict.fromkeys(texts) if len(tokenizer(text).input_ids) > tokenizer.model_max_length]
    if too_long:
        # The text encoder would cut them silently.
        limit = tokenizer.model_max_length
        print(f"{len(too_long)} text(s) cut after {limit} tokens, the first: {too_long[0]}", file=sys.stderr)
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


@torch.inference_mode()
def encode_prompts(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, texts: list[str]) -> Tensor:
    """(B, T, D) float32 last hidden states on the CPU for B texts."""
    batches = tokenize(tokenizer, texts).split(64)
    hidden = [text_encoder(input_ids.to(text_encoder.device)).last_hidden_state for input_ids in batches]
    return torch.cat([batch.float().cpu() for batch in hidden])
