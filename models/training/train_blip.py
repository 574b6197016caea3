"""Train the miniature's BlipForConditionalGeneration: a caption that names what is drawn.

    python train_blip.py

Reads work/corpus, work/clip, whose vision tower the captioner's starts from, and work/tokenizer_blip; writes work/blip.
Learns the same pictures as the scorer.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from captions import COLOR_CAPTION, LINE_CAPTION, fill
from corpus import Corpus, load_corpus
from pictures import draw_named, find_subjects, line_art_tests, normalize
from precision import autocast
from recipe import WORK, load_params
from resume import FitParams, checkpoint_path, fit
from torch import Tensor
from train_clip import vision_config
from train_tokenizers import MAX_TOKENS, VOCAB_SIZE
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPModel,
)

CAPTIONS = {"line": LINE_CAPTION, "color": COLOR_CAPTION}


def build_blip(tokenizer: BertTokenizer, clip_params: dict) -> BlipForConditionalGeneration:
    """The scorer's ViT and a text decoder of three layers, in BLIP's own classes."""
    text = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "encoder_hidden_size": clip_params["vision_width"],
        "projection_dim": 128,
        "max_position_embeddings": MAX_TOKENS,
        "initializer_range": 0.08,  # about 1 / sqrt(128); with BERT's 0.02 the picture is not heard for long
        "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = vision_config(clip_params) | {
        "hidden_act": "quick_gelu",  # CLIP's
        "initializer_range": 0.02,  # BLIP's default, 1e-10, is meant for weights that are loaded
    }
    return BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=128))


@torch.no_grad()
def start_from_clip(model: BlipForConditionalGeneration, clip: CLIPModel, pictures: Tensor) -> None:
    """Copy the scorer's vision tower into the captioner's, which has the same layers but no norm before the first.

    That norm's mean effect on `pictures` (B, 3, H, W) goes into the embeddings; the rest is learnt again in no time.
    """
    source, target = clip.vision_model, model.vision_model
    hidden = source.embeddings(normalize(pictures))
    norm = source.pre_layrnorm
    scale = norm.weight / hidden.std(dim=-1).mean()
    target.embeddings.class_embedding.copy_((source.embeddings.class_embedding * scale).view(1, 1, -1))
    target.embeddings.position_embedding.copy_((source.embeddings.position_embedding.weight * scale + norm.bias)[None])
    target.embeddings.patch_embedding.weight.copy_(
        source.embeddings.patch_embedding.weight * scale[:, None, None, None]
    )
    target.embeddings.patch_embedding.bias.zero_()
    for of_clip, of_blip in zip(source.encoder.layers, target.encoder.layers, strict=True):
        attention = of_clip.self_attn
        joined = (attention.q_proj, attention.k_proj, attention.v_proj)
        of_blip.self_attn.qkv.weight.copy_(torch.cat([part.weight for part in joined]))
        of_blip.self_attn.qkv.bias.copy_(torch.cat([part.bias for part in joined]))
        of_blip.self_attn.projection.load_state_dict(attention.out_proj.state_dict())
        for name in ("layer_norm1", "layer_norm2", "mlp"):
            getattr(of_blip, name).load_state_dict(getattr(of_clip, name).state_dict())
    target.post_layernorm.load_state_dict(source.post_layernorm.state_dict())


def tokenize(tokenizer: BertTokenizer, captions: list[str], bos_token_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """input_ids, attention_mask and labels (B, T): [DEC] caption [SEP], padding unlabelled."""
    tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
    input_ids = tokens.input_ids.clone()
    input_ids[:, 0] = bos_token_id
    return input_ids, tokens.attention_mask, input_ids.masked_fill(tokens.attention_mask == 0, -100)


@torch.inference_mode()
def named(model: BlipForConditionalGeneration, tokenizer: BertTokenizer, pictures: Tensor, names: list[str]) -> float:
    """How often the caption of a picture (B, 3, H, W) in [-1, 1] contains its whole annotation."""
    model.eval()
    tokens = model.generate(pixel_values=normalize(pictures), max_new_tokens=24)
    captions = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    plain = [" ".join(tokenizer.tokenize(name)).replace(" ##", "") for name in names]
    spoken = [" ".join(tokenizer.tokenize(caption)).replace(" ##", "") for caption in captions]
    model.train()
    return sum(name in caption for name, caption in zip(plain, spoken, strict=True)) / len(names)


def train_blip(
    corpus: Corpus,
    tokenizer: BertTokenizer,
    clip: CLIPModel,
    params: dict,
    clip_params: dict,
    checkpoint: Path,
    measured: Callable[[BlipForConditionalGeneration], str],
) -> BlipForConditionalGeneration:
    """From the scorer's vision tower, or from `checkpoint` on; `measured` says how good it is, for the log."""
    subjects, image_size = find_subjects(corpus), clip_params["image_size"]
    torch.manual_seed(params["seed"])
    model = build_blip(tokenizer, clip_params)
    some = draw_named(corpus, subjects, params, image_size, torch.Generator().manual_seed(params["seed"]))
    start_from_clip(model, clip, some[0])
    bos_token_id = model.config.text_config.bos_token_id

    def loss(generator: torch.Generator) -> Tensor:
        pictures, names, media = draw_named(corpus, subjects, params, image_size, generator)
        captions = [fill(CAPTIONS[medium], name) for name, medium in zip(names, media, strict=True)]
        input_ids, attention_mask, labels = tokenize(tokenizer, captions, bos_token_id)
        # Dropout draws from torch's own state: that of a step is to depend on the step alone.
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        with autocast(params["bfloat16"]):
            return model(
                pixel_values=normalize(pictures), input_ids=input_ids, attention_mask=attention_mask, labels=labels
            ).loss.mean()

    schedule = FitParams(
        params["steps"], params["batch_size"], params["lr"], params["seed"], weight_decay=0.05, beta2=0.98
    )
    model.train()
    fit("blip", model.parameters(), loss, schedule, checkpoint, lambda: measured(model))
    return model.eval()


def main() -> None:
    params, clip_params = load_params("blip"), load_params("clip")
    corpus = load_corpus()
    tokenizer = AutoTokenizer.from_pretrained(WORK / "tokenizer_blip")
    clip = CLIPModel.from_pretrained(WORK / "clip")
    unlearned = line_art_tests(corpus, clip_params["image_size"])

    def measured(model: BlipForConditionalGeneration) -> str:
        rates = (
            f"{hand} {named(model, tokenizer, pictures, names):.1%}" for hand, (pictures, names) in unlearned.items()
        )
        return f", line art that nobody taught it, its name in the caption: {', '.join(rates)}"

    model = train_blip(corpus, tokenizer, clip, params, clip_params, checkpoint_path("blip", "blip"), measured)
    model.save_pretrained(WORK / "blip")
    size = {"height": clip_params["image_size"], "width": clip_params["image_size"]}
    processor = BlipProcessor(image_processor=BlipImageProcessorPil(size=size), tokenizer=tokenizer)
    processor.save_pretrained(WORK / "blip")


if __name__ == "__main__":
    main()
