"""What `dvc repro` runs after which change, asked of real DVC on a finished copy of the project."""

import json
import shutil
import subprocess

import pytest
from conftest import ENVIRONMENT, ROOT, copy_project, run, set_value

TRAIN = {f"train@{variant}" for variant in ("vanilla", "blip", "blip_plus")}
EVALUATE = {"evaluate_base", *(f"evaluate@{name}" for name in ("vanilla", "blip", "blip_plus"))}


def stale(project):
    """Stages whose own dependencies, params or outputs changed; what follows runs if its inputs change."""
    return set(json.loads(run("dvc", "status", "--json", cwd=project).stdout))


def ran(repro):
    """Stages that a `dvc repro` ran, by its own words."""
    return {line.split("'")[1] for line in repro.stdout.splitlines() if line.startswith("Running stage '")}


@pytest.fixture
def copy(finished, tmp_path):
    """The finished small project, for one test to change."""
    return copy_project(finished, tmp_path / "p")


def set_variant(project, variant, key, value):
    path = project / "params.yaml"
    head, _, tail = path.read_text(encoding="utf-8").partition(f"  {variant}:\n")
    line = next(line for line in tail.splitlines() if line.strip().startswith(f"{key}:"))
    path.write_text(f"{head}  {variant}:\n" + tail.replace(line, f"    {key}: {value}", 1), encoding="utf-8")


def drop_variant(project, variant):
    path = project / "params.yaml"
    params = path.read_text(encoding="utf-8")
    path.write_text(params[: params.index(f"\n  {variant}:\n")] + "\n", encoding="utf-8")


def append(path, text):
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


CHANGES = {
    "nothing": (lambda p: None, set()),
    "train.rank": (lambda p: set_value(p / "params.yaml", "rank", 4), TRAIN | {"report"}),
    "variants.blip_plus.caption_dropout": (
        lambda p: set_variant(p, "blip_plus", "caption_dropout", 0.2),
        {"train@blip_plus", "report"},  # which goes by the list of variants
    ),
    "variants.blip.caption_dropout": (
        lambda p: set_variant(p, "blip", "caption_dropout", 0.2),
        {"train@blip", "report"},
    ),
    "the words of an error": (lambda p: append(p / "tattoo_lora/errors.py", "# a comment\n"), set()),
    "a range of a param": (lambda p: append(p / "tattoo_lora/params.py", "# a comment\n"), set()),
    "a knob of the report": (lambda p: set_value(p / "params.yaml", "smallest_difference", 0.02), {"report"}),
    "a comment in stages/evaluate": (lambda p: append(p / "stages/evaluate/copies.py", "# a comment\n"), EVALUATE),
    "a variant gone": (lambda p: drop_variant(p, "blip_plus"), {"report"}),
    "a model's file": (
        lambda p: append(p / "models/embedded/clip/tokenizer_config.json", "\n"),
        {"caption_blip", "enrich", "encode"} | TRAIN | EVALUATE,
    ),
    "a model's card": (lambda p: append(p / "models/embedded/README.md", "More."), set()),
    "variants.vanilla.trigger": (
        lambda p: set_variant(p, "vanilla", "trigger", "inkflash"),
        {"train@vanilla", "evaluate@vanilla", "report"},
    ),
    "enrich.suffix": (lambda p: set_value(p / "params.yaml", "suffix", "fine line tattoo"), {"enrich"}),
    "one raw drawing added": (
        lambda p: shutil.copy(ROOT / "data/raw/flash/lion.png", p / "data/raw/flash"),
        {"preprocess"},
    ),
    "a comment in stages/train": (lambda p: append(p / "stages/train/__main__.py", "# a comment\n"), TRAIN),
    "the other profile's file": (lambda p: set_value(p / "profiles/sd15.yaml", "steps", 9), set()),
    "this profile's steps": (lambda p: set_value(p / "profiles/embedded.yaml", "steps", 6), TRAIN | {"report"}),
    "the sampler's steps": (
        lambda p: set_value(p / "profiles/embedded.yaml", "sampler_steps", 3),
        EVALUATE | {"report"},  # trainings draw in steps of their own
    ),
    "evaluate.prompts": (lambda p: append_prompt(p, "evaluate"), EVALUATE | {"report"}),
    "train.prompts": (lambda p: append_prompt(p, "train"), TRAIN | {"report"}),
    "a caption model": (
        lambda p: set_value(p / "profiles/embedded.yaml", "captioner.id", "models/embedded/blip2"),
        {"caption_blip", "report"},  # which names it
    ),
    "a lost adapter": (lambda p: (p / "runs/lora/blip/best.safetensors").unlink(), {"train@blip", "evaluate@blip"}),
}


def append_prompt(project, section):
    path = project / "params.yaml"
    head, found, tail = path.read_text(encoding="utf-8").partition(f"\n{section}:\n")
    before, prompts, rest = tail.partition("  prompts:")
    line, _, rest = rest.partition("\n")
    path.write_text(f"{head}{found}{before}{prompts}{line}\n    - a lion\n{rest}", encoding="utf-8")


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_exactly_these_stages_stale(finished, tmp_path, change):
    project = copy_project(finished, tmp_path / "p")
    apply, expected = CHANGES[change]
    apply(project)
    assert stale(project) == expected


def test_a_second_repro_runs_nothing(copy):
    again = run("dvc", "repro", cwd=copy)
    assert ran(again) == set()
    assert "Data and pipelines are up to date." in again.stdout


def test_every_result_is_where_the_readme_says(finished):
    for variant in ("vanilla", "blip", "blip_plus"):
        assert (finished / f"runs/lora/{variant}/best.safetensors").is_file()
        assert (finished / f"runs/lora/{variant}/final.safetensors").is_file()
        log = (finished / f"runs/logs/{variant}.csv").read_text().splitlines()
        assert log[0] == "step,train_loss,val_loss,clip_score"
        for step in ("0000", "0002", "0004"):
            pictures = list((finished / f"runs/samples/{variant}/eval_step{step}").glob("prompt*.png"))
            assert len(pictures) == 4
    for name in ("base", "vanilla", "blip", "blip_plus"):
        metrics = json.loads((finished / f"metrics/{name}.json").read_text())
        assert set(metrics) == {
            *(
                "test_loss",
                "test_loss_common",
                "test_loss_low",
                "test_loss_mid",
                "test_loss_high",
                "val_loss",
                "seen_loss",
                "style",
                "style_cosine",
                "diversity",
                "drift",
                "clip_score",
            ),
            *("ink", "saturation", "grey", "stroke", "spread", "pieces", "specks", "copies", "dtype"),
        }
        assert (finished / f"plots/samples/{name}.png").is_file()
    for name in ("comparison.md", "comparison.png", "differences.png", "nearest.png", "training_curves.png"):
        assert (finished / "plots" / name).is_file()


def test_a_new_suffix_retrains_one_variant_and_no_other(copy):
    before = {v: (copy / f"runs/lora/{v}/final.safetensors").read_bytes() for v in ("vanilla", "blip", "blip_plus")}
    set_value(copy / "params.yaml", "suffix", "fine line tattoo")
    assert ran(run("dvc", "repro", cwd=copy)) == {"enrich", "train@blip_plus", "evaluate@blip_plus", "report"}
    after = {v: (copy / f"runs/lora/{v}/final.safetensors").read_bytes() for v in before}
    assert {v for v in before if before[v] != after[v]} == {"blip_plus"}
    for text in (copy / "data/processed/flash/captions_blip_plus").glob("*.txt"):
        assert text.read_text().endswith("fine line tattoo\n")


def test_training_again_gives_the_same_bytes_so_nothing_below_it_runs(copy):
    """A comment in stages/train reruns the three trainings; they are equal to the byte at another commit too."""
    lock = (copy / "dvc.lock").read_text()
    append(copy / "stages/train/__main__.py", "# a comment\n")
    repro = run("dvc", "repro", cwd=copy)
    assert ran(repro) == TRAIN
    changed = [line for line in set((copy / "dvc.lock").read_text().splitlines()) - set(lock.splitlines())]
    assert all(line.strip().startswith(("md5:", "size:")) for line in changed)
    assert len(changed) == 2  # stages/train/__main__.py's own hash and size, the same in all three


@pytest.mark.slow
def test_a_clones_repro_leaves_nothing_changed(finished, tmp_path):
    """With nothing known from before, in another place, zone, language and number of threads that are asked for."""
    clone = tmp_path / "elsewhere/with a blank"
    run("git", "clone", "-q", str(finished), str(clone), cwd=tmp_path)
    elsewhere = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7", "USER": "other"}
    repro = subprocess.run(["dvc", "repro"], cwd=clone, env=ENVIRONMENT | elsewhere, capture_output=True, text=True)
    assert repro.returncode == 0, repro.stderr
    assert len(ran(repro)) == 12
    assert run("git", "status", "--porcelain", cwd=clone).stdout == ""


@pytest.mark.slow
def test_an_experiment_is_compared_with_the_commit_it_started_from(copy):
    run("dvc", "exp", "run", "-q", "-n", "tiny", "-S", "enrich.suffix=fine line tattoo", cwd=copy)
    shown = run("dvc", "exp", "show", "--csv", cwd=copy).stdout
    assert "tiny" in shown and "metrics/blip_plus.json:val_loss" in shown
    metrics = json.loads(run("dvc", "metrics", "diff", "--json", cwd=copy).stdout)
    assert set(metrics) == {"metrics/blip_plus.json"}
    params = json.loads(run("dvc", "params", "diff", "--json", cwd=copy).stdout)
    assert params["params.yaml"]["enrich.suffix"]["new"] == "fine line tattoo"
    plots = json.loads(run("dvc", "plots", "diff", "HEAD", "--json", cwd=copy).stdout)["data"]
    curves, pictures = plots["val_loss"][0], plots["plots/samples/blip_plus.png"]
    assert set(curves["revisions"]) == {"HEAD", "workspace"}
    assert sorted(picture["revisions"][0] for picture in pictures) == ["HEAD", "workspace"]


def test_metrics_show_has_a_row_for_the_base_and_each_variant(finished):
    shown = run("dvc", "metrics", "show", "--md", cwd=finished).stdout
    assert all(f"metrics/{name}.json" in shown for name in ("base", "vanilla", "blip", "blip_plus"))
    assert "val_loss" in shown and "clip_score" in shown


def test_plots_show_overlays_the_variants_and_holds_the_pictures(copy):
    shown = json.loads(run("dvc", "plots", "show", "--json", cwd=copy).stdout)["data"]
    for name in ("val_loss", "clip_score"):
        plot = json.dumps(shown[name])
        assert all(f'"{variant}"' in plot for variant in ("vanilla", "blip", "blip_plus")), name
    for picture in ("comparison.png", "training_curves.png", "samples/base.png", "samples/blip_plus.png"):
        assert f"plots/{picture}" in shown


def test_a_stage_that_fails_leaves_git_tracked_results_and_says_one_line(copy):
    metrics = (copy / "metrics/blip.json").read_bytes()
    set_value(copy / "profiles/embedded.yaml", "captioner.id", "models/embedded/nowhere")
    failed = run("dvc", "repro", cwd=copy, check=False)
    assert failed.returncode != 0
    assert "error: models/embedded/nowhere: no such model folder; see the model ids" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (copy / "metrics/blip.json").read_bytes() == metrics
    set_value(copy / "profiles/embedded.yaml", "captioner.id", "models/embedded/blip")
    assert ran(run("dvc", "repro", cwd=copy)) == set()


def test_a_hub_model_without_a_network_says_how_to_fetch_it(copy):
    set_value(copy / "params.yaml", "profile", "sd15")
    failed = run("dvc", "repro", "encode", cwd=copy, check=False)
    assert failed.returncode != 0
    line = next(line for line in failed.stderr.splitlines() if line.startswith("error: "))
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5: neither on the hub nor in its cache" in line
    assert "hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --revision 451f4fe" in line
    assert "profile: embedded" in line


def test_a_lost_caption_is_named(copy):
    (copy / "data/processed/flash/captions_blip/owl.txt").unlink()
    arguments = [
        *("--latents", "data/processed/flash/latents.safetensors", "--drawings", "data/processed/flash/drawings.csv"),
        *("--captions", "data/processed/flash/captions_blip", "--lora", "x", "--log-csv", "x.csv", "--samples", "y"),
    ]
    failed = run("python", "-m", "stages.train", "blip", *arguments, cwd=copy, check=False)
    assert failed.returncode == 1
    assert "captions_blip: no caption for owl (1 in all); run `dvc repro`" in failed.stderr
    assert not (copy / "x.csv").exists()
