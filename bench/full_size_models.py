"""Write Stable Diffusion 1.5, BLIP-large and CLIP-B/32 with their real architecture and random weights.

    python -m bench.full_size_models SCRATCH        2.9 GB in float16, a minute or two on two cores

Folders, files, keys and configs are the hub's, so that the whole pipeline can be run at full size where the hub
can't be reached. What such models draw and say is noise.
"""

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
)

from bench import BASE, BLIP, CLIP
from bench.hub_layout import base_as_on_the_hub, blip_as_on_the_hub, clip_as_on_the_hub
from tattoo_lora.diffusion.checkpoint_file import LAYOUT


def blip_tokenizer() -> BertTokenizer:
    """A WordPiece tokenizer of BLIP's size, 30,524; its words are arbitrary."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = special + [f"word{i}" for i in range(30522 - len(special))] + ["[DEC]", "[ENC]"]
    return BertTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        model_max_length=512,
        additional_special_tokens=["[DEC]", "[ENC]"],
    )


def write_base(out: Path) -> None:
    """Stable Diffusion 1.5: 860 M parameters in the UNet, 84 M in the VAE, 123 M in the text encoder."""
    folder = shutil.copytree(LAYOUT, out / BASE)
    for cls, part in ((AutoencoderKL, "vae"), (UNet2DConditionModel, "unet")):
        cls.from_config(cls.load_config(LAYOUT, subfolder=part)).half().save_pretrained(folder / part)
    CLIPTextModel(CLIPTextConfig.from_pretrained(LAYOUT / "text_encoder")).half().save_pretrained(
        folder / "text_encoder"
    )


def write_blip(out: Path) -> None:
    """BLIP-large: a ViT-L/16 at 384 px and a decoder of BERT's size, 446 M parameters."""
    tokenizer = blip_tokenizer()
    text = {
        "vocab_size": 30524,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 16,
    }
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    model.half().save_pretrained(out / BLIP)
    size = {"height": 384, "width": 384}
    BlipProcessor(image_processor=BlipImageProcessorPil(size=size), tokenizer=tokenizer).save_pretrained(out / BLIP)


def write_clip(out: Path) -> None:
    """CLIP ViT-B/32, 151 M parameters."""
    text = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "projection_dim": 512}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config={"patch_size": 32, "projection_dim": 512}))
    model.half().save_pretrained(out / CLIP)
    tokenizer = CLIPTokenizer.from_pretrained(LAYOUT / "tokenizer")
    CLIPProcessor(image_processor=CLIPImageProcessorPil(), tokenizer=tokenizer).save_pretrained(out / CLIP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="an empty folder outside of the project")
    args = parser.parse_args()
    torch.manual_seed(0)
    for name, write, as_on_the_hub in (
        (BASE, write_base, base_as_on_the_hub),
        (BLIP, write_blip, blip_as_on_the_hub),
        (CLIP, write_clip, clip_as_on_the_hub),
    ):
        write(args.out)
        as_on_the_hub(args.out / name)
        for path in sorted((args.out / name).rglob("*.safetensors")):
            print(f"{path.stat().st_size / 1e6:8.0f} MB  {path.relative_to(args.out)}", flush=True)


if __name__ == "__main__":
    main()
