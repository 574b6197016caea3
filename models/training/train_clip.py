"""Train the miniature's CLIPModel: which caption belongs to which picture.

    python train_clip.py

Reads work/corpus and work/tokenizer, writes work/clip. Learns the subjects in colour and as line art of every hand but
the unseen ones, and no line art that is held out. Its text tower is where the base model's text encoder starts, as
Stable Diffusion's is CLIP's.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from captions import COLOR_TEMPLATES, LINE_CAPTION, LINE_TEMPLATES, PLAIN_TEMPLATES, draw_caption, fill
from corpus import Corpus, Row, load_corpus, load_unseen, views
from pictures import Subjects, chance, draw_master, find_subjects, smear, turned_views
from precision import autocast
from recipe import WORK, load_params
from resume import FitParams, checkpoint_path, fit
from torch import Tensor
from train_tokenizers import MAX_TOKENS, VOCAB_SIZE
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

CANDIDATES = 64
TEXT_WIDTH = 128  # the base model's cross-attention too


def build_clip(params: dict) -> CLIPModel:
    """A ViT over 8 x 8 patches and a text tower of four layers."""
    text = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "projection_dim": 128,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    vision = vision_config(params) | {"projection_dim": 128}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)
    config._attn_implementation = "eager"  # fused attention in bf16 takes twice the time on a CPU
    return CLIPModel(config)


def vision_config(params: dict) -> dict:
    """The ViT that the scorer and the captioner have in common; params: the section clip of params.yaml."""
    return {
        "hidden_size": params["vision_width"],
        "intermediate_size": 4 * params["vision_width"],
        "num_hidden_layers": params["vision_layers"],
        "num_attention_heads": params["vision_width"] // 32,
        "image_size": params["image_size"],
        "patch_size": params["patch_size"],
    }


def normalize(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) as CLIP's image processor gives them, for pictures (B, 3, H, W) in [-1, 1]."""
    mean, std = torch.tensor(OPENAI_CLIP_MEAN).view(3, 1, 1), torch.tensor(OPENAI_CLIP_STD).view(3, 1, 1)
    return (pictures / 2 + 0.5 - mean) / std


def draw_pairs(
    corpus: Corpus, subjects: Subjects, params: dict, generator: torch.Generator
) -> tuple[Tensor, list[str]]:
    """Pictures (B, 3, H, W) in [-1, 1] and their captions, no two of which fit one picture.

    A quarter of the subjects come in both media, so that the medium's words matter; the rest in one, half of
    them with a caption that does not say which.
    """
    order = torch.randperm(len(subjects.names), generator=generator).tolist()
    drawn = [subjects.names[i] for i in order[: params["batch_size"] * 4 // 5]]
    both = params["batch_size"] - len(drawn)
    masters, captions = [], []
    for i, name in enumerate(drawn):
        plain = i >= both and chance(0.5, generator)
        for medium in ("line", "color") if i < both else ("line" if chance(0.6, generator) else "color",):
            templates = {"line": LINE_TEMPLATES, "color": COLOR_TEMPLATES}[medium]
            masters.append(draw_master(corpus, subjects, name, medium, generator))
            captions.append(draw_caption(PLAIN_TEMPLATES if plain else templates, name, generator))
    pictures = turned_views(torch.stack(masters), generator, params["image_size"])
    return smear(pictures, params["smeared_share"], generator), captions


@torch.inference_mode()
def top1(clip: CLIPModel, tokenizer, pictures: Tensor, names: list[str], all_names: list[str], template: str) -> float:
    """How often the name of a picture (B, 3, H, W) in [-1, 1] wins among CANDIDATES, over eight draws of the others."""
    tokens = tokenizer([fill(template, name) for name in all_names], padding=True, truncation=True, return_tensors="pt")
    text = F.normalize(clip.get_text_features(**tokens).pooler_output, dim=-1)
    image = F.normalize(clip.get_image_features(pixel_values=normalize(pictures)).pooler_output, dim=-1)
    cosine = image @ text.T
    generator = torch.Generator().manual_seed(0)
    hits = []
    for row, name in zip(cosine, names, strict=True):
        right = all_names.index(name)
        for _ in range(8):
            others = torch.randperm(len(all_names), generator=generator)
            others = others[others != right][: CANDIDATES - 1]
            hits.append(bool(row[right] > row[others].max()))
    return sum(hits) / len(hits)


def line_art(masters: Tensor, rows: list[Row], size: int) -> dict[str, tuple[Tensor, list[str]]]:
    """By hand, the subjects' pictures (B, 3, size, size), framed as the preprocess stage frames them, and names."""
    by_hand: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_hand.setdefault(row.hand, []).append(i)
    return {hand: (views(masters[i], None, size), [rows[j].name for j in i]) for hand, i in by_hand.items()}


def tests_of(corpus: Corpus, size: int) -> dict[str, tuple[Tensor, list[str]]]:
    """Line art that is in no training: OpenMoji's held-out drawings, and each unseen hand's."""
    rows = corpus.rows["line"]
    held_out = [i for i, row in enumerate(rows) if row.held_out]
    return line_art(corpus.line[held_out], [rows[i] for i in held_out], size) | line_art(*load_unseen(), size)


def train_clip(
    corpus: Corpus, tokenizer: CLIPTokenizer, params: dict, checkpoint: Path, measured: Callable[[CLIPModel], str]
) -> CLIPModel:
    """From nothing, or from `checkpoint` on; `measured` says how good it is, for the log."""
    torch.manual_seed(params["seed"])
    clip = build_clip(params)
    subjects = find_subjects(corpus)

    def loss(generator: torch.Generator) -> Tensor:
        pictures, captions = draw_pairs(corpus, subjects, params, generator)
        tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        with autocast(params["bfloat16"]):
            logits = clip(pixel_values=normalize(pictures), **tokens).logits_per_image.float()
        labels = torch.arange(len(logits))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    schedule = FitParams(
        params["steps"], params["batch_size"], params["lr"], params["seed"], weight_decay=0.1, beta2=0.98
    )
    fit("clip", clip.parameters(), loss, schedule, checkpoint, lambda: measured(clip))
    return clip


def main() -> None:
    params = load_params("clip")
    corpus = load_corpus()
    tokenizer = AutoTokenizer.from_pretrained(WORK / "tokenizer")
    unlearned = tests_of(corpus, params["image_size"])

    def measured(clip: CLIPModel) -> str:
        rates = (
            f"{hand} {top1(clip, tokenizer, pictures, names, corpus.subjects, LINE_CAPTION):.1%}"
            for hand, (pictures, names) in unlearned.items()
        )
        return f", line art that nobody taught it, right name first among {CANDIDATES}: {', '.join(rates)}"

    train_clip(corpus, tokenizer, params, checkpoint_path("clip", "clip"), measured).save_pretrained(WORK / "clip")
    size = {"height": params["image_size"], "width": params["image_size"]}
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": params["image_size"]}, crop_size=size)
    CLIPProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(WORK / "clip")


if __name__ == "__main__":
    main()
