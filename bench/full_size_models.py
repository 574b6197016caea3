"""Write Stable Diffusion 1.5, BLIP-large and CLIP-B/32 with their real architecture and random weights.

    python -m bench.full_size_models SCRATCH        2.9 GB in float16, a minute or two on two cores

Folders, file names and configs are the hub's, so that the whole pipeline can be run at full size where the hub
can't be reached. What such models draw and say is noise.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import pre_tokenizers
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

TEXT_768 = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def clip_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer of CLIP's size, 49,408; its merges are arbitrary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [f"{byte}</w>" for byte in alphabet]
    pairs = [(one, f"{other}</w>") for one in alphabet for other in alphabet]
    merges = pairs[: 49408 - len(tokens) - 2]
    tokens += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=77)


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
    channels = (128, 256, 512, 512)
    vae = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT_768)).half(),
        tokenizer=clip_tokenizer(),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out / BASE)


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
    text = TEXT_768 | {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "projection_dim": 512}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config={"patch_size": 32, "projection_dim": 512}))
    model.half().save_pretrained(out / CLIP)
    CLIPProcessor(image_processor=CLIPImageProcessorPil(), tokenizer=clip_tokenizer()).save_pretrained(out / CLIP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="an empty folder outside of the project")
    args = parser.parse_args()
    torch.manual_seed(0)
    for name, write in ((BASE, write_base), (BLIP, write_blip), (CLIP, write_clip)):
        write(args.out)
        for path in sorted((args.out / name).rglob("*.safetensors")):
            print(f"{path.stat().st_size / 1e6:8.0f} MB  {path.relative_to(args.out)}", flush=True)


if __name__ == "__main__":
    main()
