"""The training recipe's loop, models and pipeline, on corpora of a few blots and schedules of a few steps."""

import ast
import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
from dvc.repo import Repo
from torch import nn
from transformers import AutoTokenizer, CLIPTextModel

ROOT = Path(__file__).parents[1]
TRAINING = ROOT / "models/training"
sys.path.append(str(TRAINING))

import choices  # noqa: E402
import corpus  # noqa: E402
import precision  # noqa: E402
import recipe  # noqa: E402
import resume  # noqa: E402
import ship  # noqa: E402
import train_base  # noqa: E402
import train_vae  # noqa: E402
from muon import Muon, as_matrix  # noqa: E402

from tattoo_lora.params import load_profile  # noqa: E402

STAGES = yaml.safe_load((TRAINING / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
SUBJECTS = ["owl", "skull"]
VAE_PARAMS = {
    "resolution": 16,
    "channels": [8, 8],
    "latent_channels": 4,
    "steps": 3,
    "decoder_steps": 2,
    "batch_size": 4,
    "lr": 1e-3,
    "seed": 0,
    "line_share": 0.5,
    "kl_weight": 1e-4,
    "latent_noise": 0.4,
    "bfloat16": False,
}


@pytest.fixture(scope="module")
def small_corpus() -> corpus.Corpus:
    """Two subjects in two hands, random pixels; the second subject is held out in the first hand."""
    generator = torch.Generator().manual_seed(0)
    size = (4, corpus.MASTER, corpus.MASTER)
    rows = [corpus.Row(hand, name, True, (hand, name) == ("a", "skull")) for hand in "ab" for name in SUBJECTS]
    pictures = [
        torch.randint(256, (*size, *depth), dtype=torch.uint8, generator=generator) for depth in ((3,), (3,), ())
    ]
    kinds = dict.fromkeys(("color", "painted", "line"), rows)
    return corpus.Corpus(*pictures, rows=kinds, names=SUBJECTS, tags=[[], []], subjects=SUBJECTS)


def imported(script: str) -> set[str]:
    """The script and all of the recipe's modules that it imports, one over another."""
    found, queue = set(), [script]
    while queue:
        name = queue.pop()
        if name not in found and (TRAINING / name).exists():
            found.add(name)
            for node in ast.walk(ast.parse((TRAINING / name).read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom):
                    queue.append(f"{node.module}.py")
                elif isinstance(node, ast.Import):
                    queue += [f"{alias.name}.py" for alias in node.names]
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_that_a_stage_of_the_recipe_imports_is_declared_and_no_other(stage):
    script = STAGES[stage]["cmd"].split()[1]
    assert {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py") and "/" not in dep} == imported(script)


def test_the_recipe_is_a_dvc_project_of_its_own():
    pipeline_stages, recipe_stages = (
        {stage.name for stage in Repo(folder).index.stages} for folder in (ROOT, TRAINING)
    )
    assert recipe_stages == set(STAGES)
    assert not any("models/training" in str(stage.path) for stage in Repo(ROOT).index.stages)
    assert "train" in {name.split("@")[0] for name in pipeline_stages}


def folder_md5(folder: Path) -> str:
    """What DVC calls a folder's md5."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    entries = [
        {"md5": hashlib.md5(path.read_bytes()).hexdigest(), "relpath": path.relative_to(folder).as_posix()}
        for path in files
    ]
    entries.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def test_the_folders_md5_is_dvcs(tmp_path, monkeypatch):
    (tmp_path / "folder/a").mkdir(parents=True)
    (tmp_path / "folder/a/x").write_text("x", encoding="utf-8")
    (tmp_path / "folder/a/y").write_text("y", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True).add("folder")
    assert folder_md5(tmp_path / "folder") in (tmp_path / "folder.dvc").read_text(encoding="utf-8")


def test_what_is_shipped_is_what_the_recipe_put_out():
    lock = yaml.safe_load((TRAINING / "dvc.lock").read_text(encoding="utf-8"))
    for out in lock["stages"]["ship"]["outs"]:
        assert folder_md5(ROOT / "models/embedded" / Path(out["path"]).name) == out["md5"], out["path"]


def test_what_was_run_is_the_recipe_in_this_folder():
    """As `dvc status` has it, without the corpus and the models between, which only who ran it has."""
    lock = yaml.safe_load((TRAINING / "dvc.lock").read_text(encoding="utf-8"))
    params = yaml.safe_load((TRAINING / "params.yaml").read_text(encoding="utf-8"))
    assert set(lock["stages"]) == set(STAGES)
    for stage in lock["stages"].values():
        for dep in stage["deps"]:
            if (TRAINING / dep["path"]).is_file():
                assert hashlib.md5((TRAINING / dep["path"]).read_bytes()).hexdigest() == dep["md5"], dep["path"]
        for section, values in stage.get("params", {}).get("params.yaml", {}).items():
            assert values == params[section]


class Stopped(Exception):
    pass


def stop_after(monkeypatch, step: int) -> None:
    """Let the next run be killed after it has saved the state of `step`."""
    save = resume.save_checkpoint

    def save_and_stop(path, done, *rest):
        save(path, done, *rest)
        if done == step:
            raise Stopped

    monkeypatch.setattr(resume, "save_checkpoint", save_and_stop)


@pytest.mark.parametrize("stopped_in", ["vae", "decoder"])
def test_a_vae_whose_training_was_stopped_is_the_same(tmp_path, monkeypatch, small_corpus, stopped_in):
    real_fit = resume.fit
    monkeypatch.setattr(train_vae, "fit", lambda *args: real_fit(*args, minutes=0))

    def train(folder: str) -> dict[str, torch.Tensor]:
        vae = train_vae.train_vae(
            small_corpus, VAE_PARAMS, lambda name: tmp_path / folder / f"{name}.safetensors", lambda vae: ""
        )
        return vae.state_dict() | {"scaling_factor": torch.tensor(vae.config.scaling_factor)}

    whole = train("whole")
    with monkeypatch.context() as patch:
        stop_after(patch, {"vae": 2, "decoder": 1}[stopped_in])
        with pytest.raises(Stopped):
            train("stopped")
        if stopped_in == "decoder":  # the first stop was the VAE's own step 1
            stop_after(patch, -1)
    again = train("stopped")
    assert all(torch.equal(tensor, again[key]) for key, tensor in whole.items())


def test_a_run_ends_with_the_average_and_reports_it(tmp_path):
    weight = nn.Parameter(torch.zeros(1))
    seen = []
    params = resume.FitParams(steps=20, batch_size=1, lr=0.1, seed=0, warmup=1, ema_decay=0.5)
    resume.fit(
        "w", [weight], lambda _: (weight - 1).square().sum(), params, tmp_path / "w", lambda: seen.append(1) or ""
    )
    state = resume.load_file(tmp_path / "w")
    assert torch.equal(state["ema.0"], weight.detach()) and not torch.equal(state["parameter.0"], weight.detach())
    assert seen == [1]


def test_the_rate_warms_up_to_its_peak_and_falls_to_a_hundredth():
    params = resume.FitParams(steps=1000, batch_size=1, lr=1.0, seed=0, warmup=100)
    rates = [resume.learning_rate(step, params) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01) and max(rates) > 0.97 and rates[-1] == pytest.approx(0.01, abs=1e-3)


def test_a_checkpoint_belongs_to_all_that_its_stage_depends_on(tmp_path):
    stage = {"cmd": "python a.py", "deps": ["a.py", "data"], "params": ["a"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"a": stage}}), encoding="utf-8")
    (tmp_path / "data").mkdir()
    keys = []
    for code, params, data in [("1", 1, "1"), ("1", 1, "1"), ("2", 1, "1"), ("1", 2, "1"), ("1", 1, "2")]:
        (tmp_path / "a.py").write_text(code, encoding="utf-8")
        (tmp_path / "params.yaml").write_text(yaml.safe_dump({"a": {"steps": params}, "b": data}), encoding="utf-8")
        (tmp_path / "data/x").write_text(data, encoding="utf-8")
        keys.append(recipe.stage_key("a", tmp_path))
    assert keys[0] == keys[1] and len(set(keys)) == 4


def test_the_vae_learns_each_hand_and_no_held_out_drawing(small_corpus):
    rows = train_vae.learned_rows(small_corpus)
    assert rows == dict.fromkeys(("color", "painted", "line"), {"a": [0], "b": [2, 3]})


def test_leveling_evens_the_latents_and_changes_no_reconstruction():
    torch.manual_seed(0)
    vae = train_vae.build_vae(VAE_PARAMS)
    pictures = torch.rand(16, 3, 16, 16) * 2 - 1
    before = train_vae.reconstruct(vae, pictures)
    train_vae.level_latents(vae, pictures)
    torch.testing.assert_close(train_vae.reconstruct(vae, pictures), before, atol=1e-4, rtol=0)
    latents = vae.encode(pictures).latent_dist.mean.transpose(0, 1).flatten(1).detach()
    covariance = (latents * vae.config.scaling_factor).cov()
    assert latents.mean().abs() < 1e-3 and covariance.diagonal().mean() == pytest.approx(1, abs=0.01)
    assert (covariance - covariance.diagonal().diag()).abs().max() < 1e-2


def test_psnr_is_taken_over_each_picture(monkeypatch):
    x = torch.zeros(2, 3, 4, 4)
    monkeypatch.setattr(train_vae, "reconstruct", lambda vae, x: x + torch.tensor([0.2, 0.02]).view(2, 1, 1, 1))
    assert train_vae.psnr(None, x) == pytest.approx((20 + 40) / 2, abs=1e-3)


def test_the_recipes_vae_has_eight_by_eight_latents():
    params = recipe.load_params("vae")
    assert params["resolution"] / 2 ** (len(params["channels"]) - 1) == 8


def test_choices_spread_evenly():
    assert choices.spread_out(list(range(10)), 4) == [0, 2, 5, 7]
    assert choices.spread_out([1, 2], 4) == [1, 2]


BASE_PARAMS = {
    "channels": [8, 16, 16],
    "hands": {"b": 1},
    "main_hand": "a",
    "hand_share": 0.5,
    "views": 2,
    "moved_share": 0.5,
    "mirrored_share": 0.5,
    "no_subject_share": 0.5,
    "steps": 2,
    "batch_size": 2,
    "lr": 1e-3,
    "text_encoder_lr": 0.3,
    "inner_lr": 3.0,
    "bfloat16": False,
    "seed": 0,
}


def run_base(drawings: corpus.Corpus, checkpoint: Path, **changes) -> StableDiffusionPipeline:
    base = ROOT / "models/embedded/base"
    vae = AutoencoderKL.from_pretrained(base / "vae").eval()
    tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32)
    return train_base.train_base(drawings, vae, tokenizer, text_encoder, BASE_PARAMS | changes, checkpoint)


def test_the_base_trains_on_the_corpus_and_draws(tmp_path, monkeypatch, small_corpus):
    start = CLIPTextModel.from_pretrained(ROOT / "models/embedded/base/text_encoder", dtype=torch.float32)
    encoded, encode_views = [], train_base.encode_views
    monkeypatch.setattr(train_base, "encode_views", lambda *args: encoded.append(args[1]) or encode_views(*args))
    pipeline = run_base(small_corpus, tmp_path / "base")
    assert torch.equal(encoded[0], small_corpus.painted[2:])  # no hand but "b"
    shipped = PNDMScheduler.from_pretrained(ROOT / "models/embedded/base/scheduler")
    one, other = ({k: v for k, v in s.config.items() if k[0] != "_"} for s in (pipeline.scheduler, shipped))
    assert one == other
    learned = [model.state_dict()["final_layer_norm.weight"] for model in (pipeline.text_encoder, start)]
    assert not torch.equal(*learned)
    pictures = train_base.sample(pipeline, SUBJECTS, seed=0, guidance_scale=4.0)
    assert [picture.size for picture in pictures] == [(pipeline.vae.config.sample_size,) * 2] * 2
    sampling = load_profile("embedded", ROOT).sampling
    assert len(pipeline.scheduler.timesteps) == sampling.sampler_steps
    assert recipe.load_params("measure")["guidance_scale"] == sampling.guidance_scale


def test_a_base_whose_training_was_stopped_is_the_same(tmp_path, monkeypatch, small_corpus):
    real_fit = resume.fit
    monkeypatch.setattr(train_base, "fit", lambda *args: real_fit(*args, minutes=0))
    whole = run_base(small_corpus, tmp_path / "whole", steps=4)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            run_base(small_corpus, tmp_path / "stopped", steps=4)
    again = run_base(small_corpus, tmp_path / "stopped", steps=4)
    for part in ("unet", "text_encoder"):
        one, other = (getattr(pipeline, part).state_dict() for pipeline in (whole, again))
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_on_a_gpu_alone_the_base_is_recorded_and_without_autocasts_cache(monkeypatch):
    recorded = []

    def record(module, arguments, allow_unused_input):
        recorded.append((module, torch.is_autocast_cache_enabled()))
        return "graphs"

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    module, arguments = nn.Linear(1, 1), (torch.ones(1),)
    monkeypatch.setattr(precision, "DEVICE", "cpu")
    assert precision.as_cuda_graphs(module, arguments, True) is module and not recorded
    monkeypatch.setattr(precision, "DEVICE", "cuda")
    assert precision.as_cuda_graphs(module, arguments, True) == "graphs" and recorded == [(module, False)]


def test_captions_name_the_hand_but_never_the_main_one():
    params = BASE_PARAMS | {"no_subject_share": 0.0}

    def endings(hand: str, share: float) -> list[str]:
        row = corpus.Row(hand, "owl", subject=True, held_out=False)
        generator = torch.Generator().manual_seed(0)
        captions = [train_base.draw_base_caption(row, params | {"hand_share": share}, generator) for _ in range(50)]
        return [caption.split(", ")[-1] for caption in captions]

    assert set(endings("fluent-emoji-flat", 1.0)) == {"fluent"} and "fluent" not in endings("fluent-emoji-flat", 0.0)
    assert "a" not in endings("a", 1.0)
    nameless = train_base.draw_base_caption(
        corpus.Row("b", "owl", subject=True, held_out=False), params | {"no_subject_share": 1.0}, torch.Generator()
    )
    assert nameless in train_base.NO_SUBJECT


def test_hands_are_drawn_by_their_weight(tmp_path, monkeypatch, small_corpus):
    drawn = []
    monkeypatch.setattr(train_base, "draw_base_caption", lambda row, *_: drawn.append(row.hand) or "")
    run_base(small_corpus, tmp_path / "base", hands={"a": 3, "b": 1}, steps=10, batch_size=16)
    assert drawn.count("a") == pytest.approx(3 / 4 * len(drawn), abs=3 * (len(drawn) * 3 / 16) ** 0.5)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (24, 8, 3, 3)])
def test_muon_is_torchs_own_also_for_a_convolution(shape):
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(shape))
    layout = torch.channels_last if ours.ndim == 4 else torch.contiguous_format
    ours.data = ours.data.to(memory_format=layout)
    flat = nn.Parameter(as_matrix(ours.data).clone())
    optimizers = [
        Muon([ours], lr=0.01, weight_decay=0.1),
        torch.optim.Muon([flat], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(5):
        ours.grad = torch.randn(shape).to(memory_format=layout)
        flat.grad = as_matrix(ours.grad).clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(as_matrix(ours.data), flat.data, atol=2e-3, rtol=0)  # bfloat16 within a step


def test_what_is_shipped_is_what_was_trained_in_float16(tmp_path, monkeypatch):
    shipped = ROOT / "models/embedded"
    ship.ship(shipped, tmp_path / "embedded")
    for name in ("base", "blip", "clip"):
        assert folder_md5(tmp_path / "embedded" / name) == folder_md5(shipped / name)
    monkeypatch.setattr(ship, "LIMIT_MB", 1)
    with pytest.raises(SystemExit, match=r"MB in all, more than 1; make a model smaller"):
        ship.ship(shipped, tmp_path / "embedded")
    shutil.rmtree(tmp_path / "embedded")
