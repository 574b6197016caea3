"""The recipe's scorer and captioner: stopped and gone on with, they end as the same bytes, and they learn names."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "models/training"))

import pictures  # noqa: E402
import resume  # noqa: E402
import train_blip  # noqa: E402
import train_clip  # noqa: E402
import train_teacher  # noqa: E402
import train_tokenizers  # noqa: E402
from corpus import MASTER, Corpus, Row, views  # noqa: E402

NAMES = ["owl", "skull", "rose", "anchor"]
CLIP = {
    "seed": 0,
    "steps": 3,
    "batch_size": 5,
    "lr": 2e-3,
    "image_size": 16,
    "patch_size": 8,
    "vision_width": 32,
    "vision_layers": 1,
    "teacher_weight": 1.0,
    "smeared_share": 0.5,
    "bfloat16": False,
}
TEACHER = {"seed": 0, "steps": 3, "batch_size": 8, "lr": 1e-2, "line_share": 0.6, "smeared_share": 0.1} | {
    "channels": [8, 8, 8, 8],
    "bfloat16": False,
}
BLIP = {"seed": 0, "steps": 3, "batch_size": 4, "lr": 2e-3, "line_share": 0.6, "smeared_share": 0.1, "bfloat16": False}


@pytest.fixture(scope="module")
def shapes() -> Corpus:
    """Four subjects, each a bar at a height of its own, as line art and in colour."""
    line = torch.full((4, MASTER, MASTER), 255, dtype=torch.uint8)
    for i in range(4):
        line[i, 30 + 35 * i : 60 + 35 * i, 30:170] = 0
    color = line[..., None].repeat(1, 1, 1, 3)
    color[..., 0] += 200 * (color[..., 0] == 0).to(torch.uint8)
    rows = [Row("openmoji", name, subject=True, held_out=False) for name in NAMES]
    kinds = dict.fromkeys(("color", "painted", "line"), rows)
    return Corpus(color, color.clone(), line, rows=kinds, names=NAMES, tags=[[]] * 4, subjects=NAMES)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    text = train_tokenizers.training_text(NAMES, [["bird"], ["bone"], ["flower"], ["ship"]])
    out = tmp_path_factory.mktemp("tokenizers")
    return (
        train_tokenizers.train_clip_tokenizer(text, out / "clip"),
        train_tokenizers.train_blip_tokenizer(text, out / "blip"),
    )


def run_clip(shapes, tokenizers, checkpoint, **changes):
    torch.manual_seed(0)
    teacher = train_teacher.build_teacher(TEACHER, NAMES).eval()
    return train_clip.train_clip(shapes, tokenizers[0], teacher, CLIP | changes, checkpoint, lambda clip: "")


def run_teacher(shapes, tokenizers, checkpoint, **changes):
    return train_teacher.train_teacher(shapes, TEACHER | changes, 32, checkpoint, lambda teacher: "")


def run_blip(shapes, tokenizers, checkpoint, **changes):
    torch.manual_seed(0)
    clip = train_clip.build_clip(CLIP)
    return train_blip.train_blip(shapes, tokenizers[1], clip, BLIP | changes, CLIP, checkpoint, lambda model: "")


@pytest.mark.parametrize(
    ("module", "run"), [(train_teacher, run_teacher), (train_clip, run_clip), (train_blip, run_blip)]
)
def test_stopped_and_gone_on_with_it_is_the_same(tmp_path, monkeypatch, shapes, tokenizers, module, run):
    monkeypatch.setattr(module, "fit", lambda *args: resume.fit(*args, minutes=0))
    whole = run(shapes, tokenizers, tmp_path / "whole")

    class Stopped(Exception):
        pass

    save = resume.save_checkpoint

    def save_and_stop(path, done, *rest):
        save(path, done, *rest)
        if done == 2:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(resume, "save_checkpoint", save_and_stop)
        with pytest.raises(Stopped):
            run(shapes, tokenizers, tmp_path / "stopped")
    torch.manual_seed(5)  # what a new process has drawn by then must not matter
    stopped = run(shapes, tokenizers, tmp_path / "stopped")
    assert whole.state_dict().keys() == stopped.state_dict().keys()
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), stopped.state_dict().values(), strict=True)
    )


def test_the_captioner_starts_with_the_scorers_eyes(tokenizers):
    torch.manual_seed(0)
    clip = train_clip.build_clip(CLIP)
    model = train_blip.build_blip(tokenizers[1], CLIP)
    train_blip.start_from_clip(model, clip, torch.rand(4, 3, 16, 16))
    layer, copied = clip.vision_model.encoder.layers[0], model.vision_model.encoder.layers[0]
    assert torch.equal(copied.self_attn.qkv.weight[:32], layer.self_attn.q_proj.weight)
    assert torch.equal(copied.mlp.fc1.weight, layer.mlp.fc1.weight)


def test_scores_find_the_right_name(shapes, tokenizers):
    torch.manual_seed(0)
    clip = train_clip.build_clip(CLIP)
    drawn = views(shapes.line, None, 16)
    rates = [train_clip.top1(clip, tokenizers[0], drawn, names, NAMES, "{n}") for names in (NAMES, NAMES[::-1])]
    assert all(0 <= rate <= 1 for rate in rates)
    captioner = train_blip.build_blip(tokenizers[1], CLIP)
    assert train_blip.named(captioner, tokenizers[1], drawn, NAMES) == 0  # it has learned nothing yet
    assert captioner.training


def test_tests_are_the_held_out_line_art_and_the_unseen_hands(monkeypatch, shapes):
    rows = [Row("openmoji", name, subject=True, held_out=name == "rose") for name in NAMES]
    held_out = Corpus(shapes.color, shapes.painted, shapes.line, shapes.rows | {"line": rows}, NAMES, [], NAMES)
    unseen = [Row("tabler", "owl", subject=True, held_out=False)]
    monkeypatch.setattr(pictures, "load_unseen", lambda: (shapes.line[:1], unseen))
    found = pictures.line_art_tests(held_out, 16)
    assert {hand: names for hand, (_, names) in found.items()} == {"openmoji": ["rose"], "tabler": ["owl"]}
    assert torch.equal(found["openmoji"][0], views(shapes.line[2:3], None, 16))
