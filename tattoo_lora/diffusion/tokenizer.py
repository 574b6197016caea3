"""The text encoder's tokenizer, for stages that need no torch."""

from transformers import CLIPTokenizer

from tattoo_lora.diffusion.checkpoint_file import config_folder
from tattoo_lora.diffusion.hub import finding
from tattoo_lora.params import Model


def load_tokenizer(base: Model) -> CLIPTokenizer:
    """The tokenizer in the base model's subfolder; UserError where the model is missing."""
    with finding(base):
        tokenizer = CLIPTokenizer.from_pretrained(config_folder(base.id), subfolder="tokenizer", revision=base.revision)
        if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of a missing folder
            raise OSError("no vocabulary in its tokenizer folder")
    return tokenizer
