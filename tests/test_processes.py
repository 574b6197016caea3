"""Two processes (gloo, CPU) do what one does."""

import csv

import pytest
from conftest import copy_project, run, set_value
from safetensors.torch import load_file

PROCESSED = "data/processed/flash"
# `accelerate launch` starts several processes on CPUs through MPI only; torchrun is what it uses on GPUs.
LAUNCH = ["env", "ACCELERATE_USE_CPU=1", "OMP_NUM_THREADS=1", "torchrun", "--nproc_per_node", "2", "-m"]


@pytest.fixture
def copy(finished, tmp_path):
    return copy_project(finished, tmp_path / "p")


def train(project, out, launcher=("python", "-m")):
    arguments = [
        *("--latents", f"{PROCESSED}/latents.safetensors", "--drawings", f"{PROCESSED}/drawings.csv"),
        *(
            "--captions",
            f"{PROCESSED}/captions_blip",
            "--lora",
            out,
            "--log-csv",
            f"{out}.csv",
            "--samples",
            f"{out}-s",
        ),
    ]
    result = run(*launcher, "stages.train", "blip", *arguments, cwd=project)
    with (project / f"{out}.csv").open() as table:
        return list(csv.DictReader(table)), result


def test_two_processes_follow_the_loss_curve_of_one_with_the_same_global_batch(copy):
    set_value(copy / "profiles/embedded.yaml", "steps", 6)
    set_value(copy / "profiles/embedded.yaml", "gradient_accumulation_steps", 2)
    one, _ = train(copy, "one")
    set_value(copy / "profiles/embedded.yaml", "train.batch_size", 2)
    two, result = train(copy, "two", LAUNCH)
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for column in ("train_loss", "val_loss"):
        for a, b in zip(one, two, strict=True):
            assert a[column] == b[column] == "" or float(a[column]) == pytest.approx(float(b[column]), abs=1e-5)
    assert result.stderr.count("0/6 [") == 1  # one progress bar
    assert sorted(path.name for path in (copy / "one").iterdir()) == sorted(
        path.name for path in (copy / "two").iterdir()
    )


@pytest.mark.slow
def test_captions_and_latents_of_two_processes_are_those_of_one(copy):
    run(*LAUNCH, "stages.caption_blip", PROCESSED, "--out", "captions", cwd=copy)
    expected = {path.name: path.read_text() for path in (copy / PROCESSED / "captions_blip").iterdir()}
    assert {path.name: path.read_text() for path in (copy / "captions").iterdir()} == expected
    result = run(*LAUNCH, "stages.encode", PROCESSED, "--out", "latents.safetensors", cwd=copy)
    expected = load_file(copy / PROCESSED / "latents.safetensors")
    latents = load_file(copy / "latents.safetensors")
    assert latents.keys() == expected.keys()
    assert all((latents[key] - expected[key]).abs().max() < 1e-4 for key in expected)
    assert result.stdout.count("12 drawings") == 1


def test_the_launch_param_is_what_dvc_runs(copy):
    set_value(copy / "params.yaml", "launch", " ".join(LAUNCH[:-1]))
    shown = run("dvc", "repro", "--dry", "encode", cwd=copy).stdout
    assert "torchrun --nproc_per_node 2 -m stages.encode" in shown
