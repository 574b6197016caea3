"""Train the miniature's CLIPModel: which caption belongs to which picture.

    python train_clip.py

Reads work/corpus, work/tokenizer and work/teacher, writes work/clip. Learns the subjects in colour and as line art of
every hand but the unseen ones, and no line art that is held out. Its text tower is where the base model's text encoder
starts, as Stable Diffusion's is CLIP's.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from captions import COLOR_TEMPLATES, LINE_CAPTION, LINE_TEMPLATES, PLAIN_TEMPLATES, draw_caption, fill
from corpus import Corpus, load_corpus
from pictures import Subjects, chance, draw_master, find_subjects, line_art_tests, normalize, smear, turned_views
from precision import autocast
from recipe import WORK, load_params
from resume import FitParams, checkpoint_path, fit
from torch import Tensor, nn
from train_tokenizers import MAX_TOKENS, VOCAB_SIZE
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    ResNetForImageClassification,
)

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


@torch.no_grad()
def seen_by(teacher: ResNetForImageClassification, pixel_values: Tensor) -> list[Tensor]:
    """What the teacher's last two stages and its pooling make of pictures: maps (B, C, h, w), standardized over C."""
    seen = teacher.resnet(pixel_values, output_hidden_states=True)
    maps = [*seen.hidden_states[-2:], seen.pooler_output]
    return [F.layer_norm(x.float().movedim(1, -1), x.shape[1:2]).movedim(-1, 1) for x in maps]


def teacher_loss(heads: nn.ModuleList, hidden: Tensor, embedding: Tensor, targets: list[Tensor]) -> Tensor:
    """The MSE of the maps as the heads read them off the ViT's tokens (B, 1 + N, D), the last off its embedding."""
    side = round((hidden.shape[1] - 1) ** 0.5)
    tokens = hidden[:, 1:].mT.unflatten(2, (side, side))
    read = [F.adaptive_avg_pool2d(tokens, target.shape[-2:]) for target in targets[:-1]] + [embedding[..., None, None]]
    return sum(F.mse_loss(head(x).float(), target) for head, x, target in zip(heads, read, targets, strict=True))


def train_clip(
    corpus: Corpus,
    tokenizer: CLIPTokenizer,
    teacher: ResNetForImageClassification,
    params: dict,
    checkpoint: Path,
    measured: Callable[[CLIPModel], str],
) -> CLIPModel:
    """From nothing, or from `checkpoint` on; `measured` says how good it is, for the log.

    Beside the captions the vision tower learns to see what the teacher sees. Of captions alone it learned nothing in a
    thousand steps.
    """
    torch.manual_seed(params["seed"])
    clip = build_clip(params)
    sizes = teacher.config.hidden_sizes[-2:]
    heads = nn.ModuleList(nn.Conv2d(params["vision_width"], channels, 1) for channels in sizes)
    heads.append(nn.Conv2d(clip.config.projection_dim, sizes[-1], 1))
    subjects = find_subjects(corpus)

    def loss(generator: torch.Generator) -> Tensor:
        pictures, captions = draw_pairs(corpus, subjects, params, generator)
        tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        pixel_values = normalize(pictures)
        with autocast(params["bfloat16"]):
            output = clip(pixel_values=pixel_values, **tokens)
            targets = seen_by(teacher, pixel_values)
            taught = teacher_loss(heads, output.vision_model_output.last_hidden_state, output.image_embeds, targets)
        logits, labels = output.logits_per_image.float(), torch.arange(len(pictures))
        contrast = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        return contrast + params["teacher_weight"] * taught

    schedule = FitParams(
        params["steps"], params["batch_size"], params["lr"], params["seed"], weight_decay=0.1, beta2=0.98
    )
    fit("clip", [*clip.parameters(), *heads.parameters()], loss, schedule, checkpoint, lambda: measured(clip))
    return clip


def main() -> None:
    params = load_params("clip")
    corpus = load_corpus()
    tokenizer = AutoTokenizer.from_pretrained(WORK / "tokenizer")
    teacher = ResNetForImageClassification.from_pretrained(WORK / "teacher")
    unlearned = line_art_tests(corpus, params["image_size"])

    def measured(clip: CLIPModel) -> str:
        rates = (
            f"{hand} {top1(clip, tokenizer, pictures, names, corpus.subjects, LINE_CAPTION):.1%}"
            for hand, (pictures, names) in unlearned.items()
        )
        return f", line art that nobody taught it, right name first among {CANDIDATES}: {', '.join(rates)}"

    clip = train_clip(corpus, tokenizer, teacher, params, checkpoint_path("clip", "clip"), measured)
    clip.save_pretrained(WORK / "clip")
    size = {"height": params["image_size"], "width": params["image_size"]}
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": params["image_size"]}, crop_size=size)
    CLIPProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(WORK / "clip")


if __name__ == "__main__":
    main()
