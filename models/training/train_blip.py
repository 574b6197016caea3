"""Train the miniature's BlipForConditionalGeneration: a caption that names what is drawn.

    python models/training/train_blip.py

After train_clip.py, whose vision tower the captioner's starts from. Learns the sample subjects in colour
and, but for the held-out ones, as line art, from the same pictures as the scorer.
"""

import argparse
from pathlib import Path

import torch
from captions import COLOR_CAPTION, LINE_CAPTION, fill
from corpus import RESOLUTION, WORK, load_corpus
from precision import autocast
from resume import Ema, load_checkpoint, save_checkpoint, set_learning_rate, step_generator
from torch import Tensor
from tqdm import tqdm
from train_clip import clip_pixel_values, draw_picture
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


def build_blip(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    """2.0 M parameters: the scorer's ViT and a text decoder of three layers, in BLIP's own classes."""
    text = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "projection_dim": 128,
        "max_position_embeddings": MAX_TOKENS,
        "initializer_range": 0.08,  # about 1 / sqrt(128); with BERT's 0.02 the picture is not heard for long
        "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": RESOLUTION,
        "patch_size": 8,
        "hidden_act": "quick_gelu",  # CLIP's
        "initializer_range": 0.02,  # BLIP's default, 1e-10, is meant for weights that are loaded
    }
    return BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=128))


@torch.no_grad()
def start_from_clip(model: BlipForConditionalGeneration, clip: CLIPModel, pictures: Tensor) -> None:
    """Copy the scorer's vision tower into the captioner's, which has the same layers but no norm before the first.

    That norm's mean effect on `pictures` (B, H, W, 3) goes into the embeddings; the rest is learnt again in no time.
    """
    source, target = clip.vision_model, model.vision_model
    hidden = source.embeddings(clip_pixel_values(pictures))
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
    """How often the caption of a picture (B, H, W, 3) contains its whole annotation."""
    model.eval()
    tokens = model.generate(pixel_values=clip_pixel_values(pictures).to(model.device), max_new_tokens=24)
    captions = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    plain = [" ".join(tokenizer.tokenize(name)).replace(" ##", "") for name in names]
    spoken = [" ".join(tokenizer.tokenize(caption)).replace(" ##", "") for caption in captions]
    model.train()
    return sum(name in caption for name, caption in zip(plain, spoken, strict=True)) / len(names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=WORK / "blip")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    corpus = load_corpus()
    subjects = corpus.subject.nonzero()[:, 0]
    held_out = corpus.line[corpus.held_out, 0]
    held_out_names = [corpus.names[i] for i in corpus.held_out.nonzero()[:, 0]]
    tokenizer = AutoTokenizer.from_pretrained(WORK / "tokenizer_blip")
    model = build_blip(tokenizer)
    start_from_clip(model, CLIPModel.from_pretrained(WORK / "clip"), corpus.line[subjects[:64], 0])
    model.to(args.device)
    bos_token_id = model.config.text_config.bos_token_id

    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.05)
    ema = Ema(parameters, decay=0.99)
    checkpoint = WORK / "blip.checkpoint.safetensors"
    start = load_checkpoint(checkpoint, parameters, optimizer, ema)

    progress = tqdm(range(start, args.steps), initial=start, total=args.steps, desc="blip", mininterval=5)
    for step in progress:
        generator = step_generator(args.seed, step)
        set_learning_rate(optimizer, step, args.steps, args.lr)
        drawn = subjects[torch.randint(len(subjects), (args.batch_size,), generator=generator)].tolist()
        as_line = (torch.rand(args.batch_size, generator=generator) < 0.6).tolist()
        pictures = [draw_picture(corpus, i, line, generator) for i, line in zip(drawn, as_line, strict=True)]
        forms = [LINE_CAPTION if line else COLOR_CAPTION for line in as_line]
        captions = [fill(form, corpus.names[i]) for form, i in zip(forms, drawn, strict=True)]
        input_ids, attention_mask, labels = (t.to(args.device) for t in tokenize(tokenizer, captions, bos_token_id))
        with autocast(args.device):
            loss = model(
                pixel_values=clip_pixel_values(torch.stack(pictures)).to(args.device),
                input_ids=input_ids,
                attention_mask=attention_mask,
                labels=labels,
            ).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        ema.update(step)
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % 100 == 0:
            save_checkpoint(checkpoint, step + 1, parameters, optimizer, ema)
            rate = named(model, tokenizer, held_out, held_out_names)
            tqdm.write(f"step {step + 1}: loss {loss.item():.3f}, held-out line drawings named: {rate:.1%}")

    ema.copy_to_model()
    print(f"held-out line drawings named: {named(model, tokenizer, held_out, held_out_names):.1%}")
    model.save_pretrained(args.out)
    size = {"height": RESOLUTION, "width": RESOLUTION}
    BlipProcessor(image_processor=BlipImageProcessorPil(size=size), tokenizer=tokenizer).save_pretrained(args.out)


if __name__ == "__main__":
    main()
