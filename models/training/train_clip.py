"""Train the miniature's CLIPModel: which caption belongs to which picture.

    python models/training/train_clip.py

After train_vae.py. Learns the sample subjects in colour and, but for the held-out ones, as line art; some
of them redrawn by the VAE from disturbed latents, as the base model's pictures will look. Its text tower is also
where the base model's text encoder starts, as Stable Diffusion's is CLIP's.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from captions import COLOR_TEMPLATES, LINE_CAPTION, LINE_TEMPLATES, PLAIN_TEMPLATES, draw_caption, fill
from corpus import RESOLUTION, WORK, Corpus, load_corpus, pixel_values
from diffusers import AutoencoderKL
from precision import autocast
from resume import Ema, load_checkpoint, save_checkpoint, set_learning_rate, step_generator
from torch import Tensor
from tqdm import tqdm
from train_tokenizers import MAX_TOKENS, VOCAB_SIZE
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

CANDIDATES = 64
REDRAWN = 4  # pictures of a subject and medium
REDRAWN_SHARE = 0.4
PAINTED_SHARE = 0.5  # of the coloured pictures: in one of the paints that the base model learns


def build_clip() -> CLIPModel:
    """4.0 M parameters: a ViT over 64 patches of 8 px and a text tower of four layers."""
    text = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "projection_dim": 128,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": RESOLUTION,
        "patch_size": 8,
        "projection_dim": 128,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)
    config._attn_implementation = "eager"  # fused attention in bf16 takes twice the time on a CPU
    return CLIPModel(config)


def clip_pixel_values(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) as CLIP's image processor gives them, for (B, H, W, 3) uint8 of the right size."""
    mean, std = torch.tensor(OPENAI_CLIP_MEAN), torch.tensor(OPENAI_CLIP_STD)
    return ((pictures.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def fade(picture: Tensor, generator: torch.Generator) -> Tensor:
    """(H, W, 3) uint8, more or less saturated and contrasted: the shape is to count, not the paint."""
    share = torch.rand(2, generator=generator)
    grey = picture.float().mean(dim=-1, keepdim=True)
    faded = torch.lerp(grey, picture.float(), share[0])
    return ((faded - 255) * (0.5 + share[1]) + 255).clamp(0, 255).to(torch.uint8)


def repaint(picture: Tensor, generator: torch.Generator) -> Tensor:
    """(H, W, 3) uint8, a quarter of the time with the channels in another order: green for red, blue for yellow."""
    if torch.rand((), generator=generator) < 0.75:
        return picture
    return picture[..., torch.randperm(3, generator=generator)]


def ink(picture: Tensor, generator: torch.Generator) -> Tensor:
    """(H, W, 3) uint8, the coloured picture's darkest parts alone, as a photocopier at full contrast gives them.

    OpenMoji outlines in black, so this is close to line art, made from the coloured drawing only: it
    keeps the scorer from learning that line art is never of a thing it saw in colour alone. Where an
    outline meets paint its edge is lost, so the strokes are thickened by a random share of a pixel.
    """
    share = torch.rand(2, generator=generator)
    lightest = picture.float().amax(dim=-1)
    inked = (lightest / (60 + 60 * share[0]) * 255).clamp(0, 255)
    thickened = -F.max_pool2d(-inked[None], 3, stride=1, padding=1)[0]
    return torch.lerp(inked, thickened, 0.7 * share[1])[..., None].expand(-1, -1, 3).to(torch.uint8)


@torch.inference_mode()
def redraw(vae: AutoencoderKL, corpus: Corpus) -> tuple[Tensor, Tensor]:
    """The subjects in colour and as line art, (N, REDRAWN, 64, 64, 3) uint8 each, out of latents with some noise.

    What a small diffusion model draws has smeared details and blotches; the scorer is to know things in spite of them.
    """
    generator = torch.Generator().manual_seed(1)
    banks = []
    for as_line in (False, True):
        bank = torch.zeros(len(corpus.names), REDRAWN, RESOLUTION, RESOLUTION, 3, dtype=torch.uint8)
        for index in tqdm(corpus.subject.nonzero()[:, 0].tolist(), desc="redraw", mininterval=5):
            pictures = torch.stack([draw_picture(corpus, index, as_line, generator) for _ in range(REDRAWN)])
            mean = vae.encode(pixel_values(pictures)).latent_dist.mean
            share = torch.rand((REDRAWN, 1, 1, 1), generator=generator)
            noise = torch.randn(mean.shape, generator=generator) * share * 0.6 / vae.config.scaling_factor
            drawn = vae.decode(mean + noise).sample.clamp(-1, 1)
            bank[index] = ((drawn + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        banks.append(bank)
    return banks[0], banks[1]


def draw_picture(corpus: Corpus, index: int, as_line: bool, generator: torch.Generator) -> Tensor:
    """(64, 64, 3) uint8: a drawing in one medium, any view, mirrored half of the time.

    A held-out drawing as line art is its coloured twin through `ink`, and so are a third of the others.
    """
    view = int(torch.randint(corpus.color.shape[1], (), generator=generator))
    inked = torch.rand((), generator=generator) < 1 / 3 or bool(corpus.held_out[index])
    if not as_line and torch.rand((), generator=generator) < PAINTED_SHARE:
        of_subject = corpus.painted[int(corpus.subject[:index].sum())]
        picture = of_subject[int(torch.randint(len(of_subject), (), generator=generator)), view]
    elif not as_line:
        picture = corpus.color[index, view]
    elif inked:
        picture = ink(corpus.color[index, view], generator)
    else:
        picture = corpus.line[index, view]
    return picture.flip(1) if torch.rand((), generator=generator) < 0.5 else picture


def draw_pairs(
    corpus: Corpus, redrawn: tuple[Tensor, Tensor], batch_size: int, generator: torch.Generator
) -> tuple[Tensor, list[str]]:
    """Pictures (B, 64, 64, 3) uint8 and their captions, no two of which fit one picture.

    A quarter of the subjects come in both media, so that the medium's words matter; the rest in one,
    half of them with a caption that does not say which.
    """
    subjects = corpus.subject.nonzero()[:, 0]
    drawn = subjects[torch.randperm(len(subjects), generator=generator)][: batch_size * 4 // 5]
    both = batch_size - len(drawn)
    pictures, captions = [], []
    for i, index in enumerate(drawn.tolist()):
        name = corpus.names[index]
        plain = i >= both and bool(torch.rand((), generator=generator) < 0.5)
        media = (True, False) if i < both else (bool(torch.rand((), generator=generator) < 0.5),)
        for as_line in media:
            if torch.rand((), generator=generator) < REDRAWN_SHARE:
                picture = redrawn[as_line][index, int(torch.randint(REDRAWN, (), generator=generator))]
            else:
                picture = draw_picture(corpus, index, as_line, generator)
            if not as_line and (plain or torch.rand((), generator=generator) < 0.5):
                picture = repaint(fade(picture, generator), generator)
            of_medium = LINE_TEMPLATES if as_line else COLOR_TEMPLATES
            pictures.append(picture)
            captions.append(draw_caption(PLAIN_TEMPLATES if plain else of_medium, name, generator))
    return torch.stack(pictures), captions


@torch.inference_mode()
def top1(clip: CLIPModel, tokenizer, pictures: Tensor, names: list[str], all_names: list[str], template: str) -> float:
    """How often the picture's own name wins among CANDIDATES drawn names, over eight draws for each of (B, H, W, 3)."""
    tokens = tokenizer([fill(template, name) for name in all_names], padding=True, truncation=True, return_tensors="pt")
    text = F.normalize(clip.get_text_features(**tokens.to(clip.device)).pooler_output, dim=-1)
    image = F.normalize(
        clip.get_image_features(pixel_values=clip_pixel_values(pictures).to(clip.device)).pooler_output, dim=-1
    )
    cosine = (image @ text.T).cpu()
    generator = torch.Generator().manual_seed(0)
    hits = []
    for row, name in zip(cosine, names, strict=True):
        right = all_names.index(name)
        for _ in range(8):
            others = torch.randperm(len(all_names), generator=generator)
            others = others[others != right][: CANDIDATES - 1]
            hits.append(bool(row[right] > row[others].max()))
    return sum(hits) / len(hits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2250)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=WORK / "clip")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    corpus = load_corpus()
    tokenizer = AutoTokenizer.from_pretrained(WORK / "tokenizer")
    held_out = corpus.line[corpus.held_out, 0]
    held_out_names = [corpus.names[i] for i in corpus.held_out.nonzero()[:, 0]]
    subject_names = [corpus.names[i] for i in corpus.subject.nonzero()[:, 0]]

    redrawn = redraw(AutoencoderKL.from_pretrained(WORK / "vae").eval(), corpus)

    clip = build_clip().to(args.device)
    parameters = list(clip.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.1)
    ema = Ema(parameters, decay=0.99)
    checkpoint = WORK / "clip.checkpoint.safetensors"
    start = load_checkpoint(checkpoint, parameters, optimizer, ema)

    progress = tqdm(range(start, args.steps), initial=start, total=args.steps, desc="clip", mininterval=5)
    for step in progress:
        generator = step_generator(args.seed, step)
        set_learning_rate(optimizer, step, args.steps, args.lr)
        pictures, captions = draw_pairs(corpus, redrawn, args.batch_size, generator)
        tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt").to(args.device)
        with autocast(args.device):
            logits = clip(pixel_values=clip_pixel_values(pictures).to(args.device), **tokens).logits_per_image.float()
        labels = torch.arange(len(logits), device=args.device)
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        ema.update(step)
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % 100 == 0:
            save_checkpoint(checkpoint, step + 1, parameters, optimizer, ema)
            rate = top1(clip, tokenizer, held_out, held_out_names, subject_names, LINE_CAPTION)
            tqdm.write(f"step {step + 1}: loss {loss.item():.3f}, held-out line drawings first among 64: {rate:.1%}")

    ema.copy_to_model()
    rate = top1(clip, tokenizer, held_out, held_out_names, subject_names, LINE_CAPTION)
    print(f"held-out line drawings first among {CANDIDATES}: {rate:.1%}")
    clip.save_pretrained(args.out)
    size = {"height": RESOLUTION, "width": RESOLUTION}
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": RESOLUTION}, crop_size=size)
    CLIPProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(args.out)


if __name__ == "__main__":
    main()
