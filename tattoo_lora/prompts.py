"""Texts to what the UNet is conditioned on, the same way in training, validation and sampling."""

import sys

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer


@torch.inference_mode()
def encode_prompts(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, texts: list[str]) -> Tensor:
    """(B, T, D) float32 last hidden states on the CPU for B texts, padded to the tokenizer's T tokens."""
    for text in texts:
        tokens = len(tokenizer(text).input_ids)
        if tokens > tokenizer.model_max_length:
            # The text encoder would cut the text without a word.
            print(f"cut after {tokenizer.model_max_length} of {tokens} tokens: {text}", file=sys.stderr)
    hidden = []
    for start in range(0, len(texts), 64):
        tokens = tokenizer(texts[start : start + 64], padding="max_length", truncation=True, return_tensors="pt")
        hidden.append(text_encoder(tokens.input_ids.to(text_encoder.device)).last_hidden_state.float().cpu())
    return torch.cat(hidden)
