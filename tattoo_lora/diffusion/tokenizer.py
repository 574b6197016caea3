"""The text encoder's tokenizer, for stages that need no torch."""

from transformers import CLIPTokenizer

from tattoo_lora.diffusion.hub import finding


def load_tokenizer(base_model: str, revision: str | None) -> CLIPTokenizer:
    """The tokenizer in `base_model`'s subfolder; UserError where the model is missing."""
    with finding(base_model, revision):
        tokenizer = CLIPTokenizer.from_pretrained(base_model, subfolder="tokenizer", revision=revision)
        if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of a missing folder
            raise OSError("no vocabulary in its tokenizer folder")
    return tokenizer
