"""Train a convolutional network to name drawings: what the scorer's vision tower learns from.

    python train_teacher.py

Reads work/corpus, writes work/teacher. A convolutional network finds out in minutes what a drawing shows; a ViT from
nothing, as CLIP's class has it, hardly in hours. So the ViT is taught to see what the network sees (train_clip.py).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from corpus import Corpus, load_corpus
from pictures import Subjects, draw_named, find_subjects, line_art_tests, normalize
from precision import autocast
from recipe import WORK, load_params
from resume import FitParams, checkpoint_path, fit, step_generator
from torch import Tensor
from torch.optim.swa_utils import update_bn
from transformers import ResNetConfig, ResNetForImageClassification

BATCHES = 16  # that the means and variances of the batch normalization are taken of, once the training is over


def build_teacher(params: dict, names: list[str]) -> ResNetForImageClassification:
    """A ResNet with one block a stage; pictures of 64 px have 8 x 8 places before the last stage and 4 x 4 after it."""
    config = ResNetConfig(
        embedding_size=params["channels"][0],
        hidden_sizes=params["channels"][1:],
        depths=[1] * (len(params["channels"]) - 1),
        layer_type="basic",
        num_labels=len(names),
    )
    return ResNetForImageClassification(config)


def train_teacher(
    corpus: Corpus,
    params: dict,
    image_size: int,
    checkpoint: Path,
    measured: Callable[[ResNetForImageClassification], str],
) -> ResNetForImageClassification:
    """From nothing, or from `checkpoint` on; `measured` says how good it is, for the log."""
    torch.manual_seed(params["seed"])
    subjects = find_subjects(corpus)
    teacher = build_teacher(params, subjects.names)
    index = {name: i for i, name in enumerate(subjects.names)}

    def loss(generator: torch.Generator) -> Tensor:
        pictures, names, _ = draw_named(corpus, subjects, params, image_size, generator)
        with autocast(params["bfloat16"]):
            logits = teacher(normalize(pictures)).logits.float()
        return F.cross_entropy(logits, torch.tensor([index[name] for name in names]), label_smoothing=0.05)

    def settled() -> str:
        update_bn(batches(corpus, subjects, params, image_size), teacher)
        teacher.eval()
        figures = measured(teacher)
        teacher.train()
        return figures

    schedule = FitParams(params["steps"], params["batch_size"], params["lr"], params["seed"], weight_decay=0.05)
    fit("teacher", teacher.parameters(), loss, schedule, checkpoint, settled)
    return teacher.eval()


def batches(corpus: Corpus, subjects: Subjects, params: dict, image_size: int) -> Iterator[Tensor]:
    """BATCHES batches as the training draws them, none of which it drew."""
    for i in range(BATCHES):
        yield normalize(draw_named(corpus, subjects, params, image_size, step_generator(params["seed"], -1 - i))[0])


@torch.inference_mode()
def top1(teacher: ResNetForImageClassification, pictures: Tensor, names: list[str], all_names: list[str]) -> float:
    """How often the name of a picture (B, 3, H, W) in [-1, 1] is the likeliest of all."""
    best = teacher(normalize(pictures)).logits.argmax(dim=-1).tolist()
    return sum(all_names[i] == name for i, name in zip(best, names, strict=True)) / len(names)


def main() -> None:
    params, image_size = load_params("teacher"), load_params("clip")["image_size"]
    corpus = load_corpus()
    unlearned = line_art_tests(corpus, image_size)

    def measured(teacher: ResNetForImageClassification) -> str:
        rates = (
            f"{hand} {top1(teacher, pictures, names, corpus.subjects):.1%}"
            for hand, (pictures, names) in unlearned.items()
        )
        return f", line art that nobody taught it, right name of {len(corpus.subjects)}: {', '.join(rates)}"

    checkpoint = checkpoint_path("teacher", "teacher")
    train_teacher(corpus, params, image_size, checkpoint, measured).save_pretrained(WORK / "teacher")


if __name__ == "__main__":
    main()
