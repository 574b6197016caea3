"""Texts to what the UNet is conditioned on, the same way in training, validation and sampling."""

import sys

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer


@torch.inference_mode()
def encode_prompts(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, texts: list[str]) -> Tensor:
    """(B, T, D) float32 last hidden states on the CPU for B texts, padded to the tokenizer's T tokens."""
    too_long = [text for text in dict.fromkeys(texts) if len(tokenizer(text).input_ids) > tokenizer.model_max_length]
    if too_long:
        # The text encoder would cut them without a word.
        limit = tokenizer.model_max_length
        print(f"{len(too_long)} text(s) cut after {limit} tokens, the first: {too_long[0]}", file=sys.stderr)
    hidden = []
    for start in range(0, len(texts), 64):
        tokens = tokenizer(texts[start : start + 64], padding="max_length", truncation=True, return_tensors="pt")
        hidden.append(text_encoder(tokens.input_ids.to(text_encoder.device)).last_hidden_state.float().cpu())
    return torch.cat(hidden)
