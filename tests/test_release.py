"""A release as a person makes it: the folder, its card, and the hub."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ENVIRONMENT, ROOT, copy_project, run, set_value
from dvc.repo import Repo
from fake_hub import TOKEN, serve_hub
from safetensors import safe_open
from safetensors.torch import load_file

from app.checks import git
from app.release import check_lock, common_ending, credits_text, hub_license
from tattoo_lora.data.manifest import ManifestRow
from tattoo_lora.data.split import file_sha256
from tattoo_lora.errors import UserError
from tattoo_lora.params import load_params


@pytest.fixture
def copy(finished, tmp_path):
    return copy_project(finished, tmp_path / "p")


@pytest.fixture(scope="module")
def released(finished, tmp_path_factory):
    """A finished project with the release of blip_plus in it."""
    project = copy_project(finished, tmp_path_factory.mktemp("released") / "p")
    run("python", "main.py", "release", "--variant", "blip_plus", cwd=project)
    return project


def release(project, *arguments, **environment):
    command = (sys.executable, "main.py", "release", *arguments)
    return subprocess.run(command, cwd=project, env={**ENVIRONMENT, **environment}, capture_output=True, text=True)


def refused(project, *arguments, **environment):
    result = release(project, *arguments, **environment)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


def read_card(folder):
    _, matter, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(matter), text


def test_the_folder_holds_weights_pictures_credits_and_a_card(released):
    folder = released / "runs/release/blip_plus"
    for name, source in (("", "best"), (".kohya", "best.kohya")):
        weights = folder / f"tattoo-lora-blip_plus{name}.safetensors"
        trained = released / f"runs/lora/blip_plus/{source}.safetensors"
        assert all(
            torch.equal(*pair) for pair in zip(*(load_file(f).values() for f in (weights, trained)), strict=True)
        )
        with safe_open(weights, "pt") as file, safe_open(trained, "pt") as before:
            commit = run("git", "rev-parse", "HEAD", cwd=released).stdout.strip()
            assert file.metadata() == before.metadata() | {"ss_git_commit": commit}
    matter, text = read_card(folder)
    assert matter["license"] == "cc-by-sa-4.0" and matter["library_name"] == "diffusers"
    assert all((folder / example["output"]["url"]).is_file() for example in matter["widget"])
    assert all((folder / picture).is_file() for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text))
    metrics = json.loads((released / "metrics/blip_plus.json").read_text())
    shown = {m["type"]: m["value"] for result in matter["model-index"][0]["results"] for m in result["metrics"]}
    assert shown == {name: value for name, value in metrics.items() if isinstance(value, float)}
    assert (released / "plots/comparison.md").read_text().strip() in text
    assert "`clean line tattoo, high contrast, stencil, no shading` last" in text
    assert run("git", "rev-parse", "HEAD", cwd=released).stdout.strip() in text
    assert str(released) not in text
    with (folder / "credits.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 12 and all(row["license"] == "CC BY-SA 4.0" and row["author"] in text for row in rows)


def test_what_the_card_says_to_run_runs(released):
    code = re.search(r"```python\n(.*?)```", read_card(released / "runs/release/blip_plus")[1], re.DOTALL)[1]
    run("python", "-c", code, cwd=released)
    assert (released / "picture.png").stat().st_size > 1000


def test_the_same_run_gives_the_same_bytes_and_of_what_is_there_only_an_earlier_release_goes(released):
    folder = released / "runs/release/blip_plus"
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    listed = json.loads(before["release.json"])
    (folder / "old.safetensors").write_text("of an earlier release")
    listed["files of this tattoo-lora release"]["old.safetensors"] = file_sha256(folder / "old.safetensors")
    (folder / "release.json").write_text(json.dumps(listed))
    (folder / "notes.txt").write_text("of the user")
    run("python", "main.py", "release", "--variant", "blip_plus", cwd=released)
    assert (folder / "notes.txt").read_text() == "of the user"
    (folder / "notes.txt").unlink()
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (folder / "README.md").write_text("a card written better")
    assert "README.md: was changed after it was released; move it away" in refused(released, "--variant", "blip_plus")
    (folder / "README.md").write_bytes(before["README.md"])
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_file_of_the_user_under_a_name_of_the_release_stays(released, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/release.json").write_text('{"files of this tattoo-lora release": {}}')
    (tmp_path / "out/credits.csv").write_text("mine")
    said = refused(released, "--variant", "blip", "--out", str(tmp_path / "out"))
    assert "credits.csv: no release wrote this file; move it away, or give --out a new folder" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"release.json", "credits.csv"}


def test_a_stale_run_is_refused(copy):
    set_value(copy / "params.yaml", "rank", 4)
    said = refused(copy, "--variant", "blip")
    assert said.startswith("error: stale or missing: report, train@blip, train@blip_plus (4 in all)")
    assert not (copy / "runs/release").exists()


def test_a_missing_run_is_refused(copy):
    shutil.rmtree(copy / "runs")
    assert "error: stale or missing: evaluate@blip, evaluate@blip_plus, evaluate@vanilla (8" in refused(
        copy, "--variant", "blip"
    )


def test_results_that_are_not_committed_are_refused(copy):
    run("git", "reset", "-q", "--soft", "HEAD~1", cwd=copy)
    assert "error: not committed: dvc.lock" in refused(copy, "--variant", "blip")


def test_an_unknown_variant_is_refused(copy):
    assert "variants: there is no nowhere; there are vanilla, blip, blip_plus" in refused(copy, "--variant", "nowhere")


def test_a_variant_that_was_not_trained_is_refused(copy):
    text = (copy / "params.yaml").read_text()
    (copy / "params.yaml").write_text(text + '  short:\n    trigger: ""\n    caption_dropout: 0.1\n')
    run("git", "commit", "-qam", "a variant without a training", cwd=copy)
    assert "error: stale or missing: evaluate@short, report, train@short (3" in refused(copy, "--variant", "short")


def test_a_lock_that_may_not_be_read_is_named():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        lock = Path(folder) / "dvc.lock"
        lock.write_text("schema: '2.0'\n")
        lock.chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may read everything
        try:
            with pytest.raises(UserError, match=r"dvc.lock: may not be read \(Permission denied\); change its perm"):
                check_lock(lock)
        finally:
            os.seteuid(user)


def test_a_dvc_that_fails_is_named(copy):
    lock = (copy / "dvc.lock").read_text()
    (copy / "dvc.lock").write_text(lock.replace("stages:", "<<<<<<< HEAD\nstages:", 1))
    assert "error: dvc.lock: holds both sides of a merge; `git checkout" in refused(copy, "--variant", "blip")
    (copy / "dvc.lock").write_text(lock)
    (copy / "dvc.yaml").write_text("stages: 1\n")
    assert "error: `dvc status` failed: " in refused(copy, "--variant", "blip")


def test_while_dvc_works_a_release_waits_and_says_nothing_of_locks(released):
    busy = "error: DVC is at work in this folder, `dvc repro` perhaps; release when it has ended"
    lock = released / ".dvc/tmp/rwlock"
    writes = {str(released / "runs/lora/blip"): {"pid": os.getpid(), "cmd": "dvc repro"}}
    lock.write_text(json.dumps({"write": writes, "read": {}}))
    assert refused(released, "--variant", "blip_plus") == busy
    lock.unlink()
    with Repo(str(released)).lock:
        assert refused(released, "--variant", "blip_plus") == busy


def test_a_folder_of_another_user_or_without_a_commit_is_one_line(released, tmp_path):
    other = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}  # Git's own way to test it
    said = refused(released, "--variant", "blip_plus", **other)
    assert "belongs to another user, so Git does not use it; if you trust it: `git config --global --add safe" in said
    shutil.rmtree(released / ".dvc/tmp")
    (released / ".dvc/tmp").write_text("in the way")
    said = refused(released, "--variant", "blip_plus")
    (released / ".dvc/tmp").unlink()
    assert said == f"error: DVC's folder {released}/.dvc/tmp: nothing can be written there (File exists)"
    with pytest.raises(UserError, match="`git rev-parse` failed: fatal: not a git repository"):
        git("rev-parse", "HEAD", root=tmp_path)


def test_a_folder_with_something_else_is_left_alone(copy, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/credits.csv").write_text("keep")
    for out in ("mine", "mine/credits.csv"):
        said = refused(copy, "--variant", "blip", "--out", str(tmp_path / out))
        assert said.endswith(f"{out}: holds something else than a release; give --out a new folder")
    assert (tmp_path / "mine/credits.csv").read_text() == "keep"
    assert "--out /proc/nowhere: nothing can be" in refused(copy, "--variant", "blip", "--out", "/proc/nowhere/blip")


def test_a_licence_is_the_hubs_name_other_for_several_and_unknown_where_one_is_missing():
    def drawn(license):
        return ManifestRow("a.png", license=license)

    assert hub_license([drawn("CC BY-SA 4.0")] * 2) == "cc-by-sa-4.0"
    assert hub_license([drawn("CC BY 4.0"), drawn("CC0 1.0")]) == "other"
    assert hub_license([drawn("my own terms")]) == "other"
    assert hub_license([drawn("CC BY 4.0"), drawn("")]) == "unknown"


def test_a_card_names_what_is_not_known_of_the_drawings():
    drawings = [ManifestRow("a.png", split="train", license="CC0 1.0", author="Ada"), ManifestRow("b.png", split="val")]
    text = credits_text(drawings)
    assert "2 drawings, 1 of them held out" in text and "| licence unknown | 1 |" in text
    assert "By Ada (1), and 1 by authors unknown." in text
    assert "By authors unknown." in credits_text(drawings[1:])


def test_the_words_that_call_the_style_are_what_all_captions_end_in():
    assert common_ending(["a cat, line tattoo, stencil", "a dog, line tattoo, stencil"]) == "line tattoo, stencil"
    assert common_ending(["a cat", "a dog"]) == ""
    assert common_ending(["line tattoo, stencil"] * 2) == "line tattoo, stencil"


def test_a_release_goes_to_the_hub_as_private(released):
    with serve_hub() as hub:
        there = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        hub.files["old.safetensors"] = b"of an earlier release"
        (released / "runs/release/blip_plus/private.txt").write_text("of the user, not to be handed on")
        done = release(released, "--variant", "blip_plus", "--upload", "me/tattoo", **there)
        assert done.returncode == 0, done.stderr
        assert f"{hub.url}/me/tattoo" in done.stdout
        assert hub.private == {"me/tattoo": True}
        folder = released / "runs/release/blip_plus"
        assert hub.files == {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name != "private.txt"
        }
        assert 'load_lora_weights("me/tattoo"' in hub.files["README.md"].decode()
        said = refused(released, "--variant", "blip_plus", "--upload", "me/tattoo", **there | {"HF_TOKEN": "hf_other"})
        assert "the hub refused or did not answer" in said and "401" in said and "hf_other" not in said
        said = refused(released, "--variant", "blip_plus", "--upload", "no such name", **there)
        assert "error: --upload no such name: write it as owner/name" in said


def test_without_a_token_an_upload_says_how_to_get_one(released, tmp_path):
    nobody = {"HF_HOME": str(tmp_path), "HF_TOKEN": ""}
    said = refused(released, "--variant", "blip_plus", "--upload", "me/tattoo", **nobody)
    assert said == "error: no token for the hub; run `hf auth login`, or set HF_TOKEN, then --upload again"


def test_every_variant_is_an_artifact():
    artifacts = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["artifacts"]
    assert {name: artifact["path"] for name, artifact in artifacts.items()} == {
        variant: f"runs/lora/{variant}" for variant in load_params(ROOT).variants
    }


def test_a_release_of_another_profile_than_that_of_params_is_refused():
    refused = run("python", "main.py", "--profile", "sd15", "release", "--variant", "blip", cwd=ROOT, check=False)
    assert refused.returncode == 2
    assert "error: a release takes the results as they are" in refused.stderr


def test_help_shows_examples():
    shown = run("python", "main.py", "release", "--help", cwd=ROOT).stdout
    assert "python main.py release --variant blip_plus --upload" in shown
