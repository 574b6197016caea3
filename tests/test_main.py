"""The one button, pressed for real."""

import shutil

import pytest
from conftest import ROOT, copy_project, run, set_value


@pytest.fixture
def copy(finished, tmp_path):
    return copy_project(finished, tmp_path / "p")


def press(project, *arguments):
    return run("python", "main.py", *arguments, cwd=project, check=False)


def test_run_again_it_does_nothing_and_says_so(copy):
    again = press(copy)
    assert again.returncode == 0
    assert "Nothing to do: everything is up to date." in again.stdout
    assert "| variant | val_loss" in again.stdout
    assert "plots/comparison.png" in again.stdout and "runs/lora/<variant>/best.safetensors" in again.stdout


def test_what_was_asked_for_is_set_in_the_params_and_nothing_else(project, tmp_path):
    copy = copy_project(project, tmp_path / "p")
    shutil.copy(copy / "profiles/embedded.yaml", copy / "profiles/mine.yaml")
    (copy / "data/raw/nothing").mkdir()  # no drawings: DVC stops at the first stage
    before = (copy / "params.yaml").read_text(encoding="utf-8").splitlines()
    result = press(copy, "--dataset", "nothing", "--profile", "mine")
    assert "data/raw/nothing: no drawings" in result.stderr
    after = (copy / "params.yaml").read_text(encoding="utf-8").splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [new.replace(new.split()[1], old.split()[1], 1) for old, new in changed] == [old for old, _ in changed]
    assert {new.split()[0]: new.split()[1] for _, new in changed} == {"dataset:": "nothing", "profile:": "mine"}


@pytest.mark.slow
def test_a_folder_of_drawings_is_brought_in_and_used(copy, tmp_path):
    mine = tmp_path / "My flash ü"
    shutil.copytree(copy / "data/raw/flash", mine)
    before = (copy / "params.yaml").read_text()
    result = press(copy, "--images", str(mine))
    assert result.returncode == 0, result.stderr
    assert (copy / "data/processed/My-flash/manifest.csv").is_file()
    assert (copy / "params.yaml").read_text() == before.replace("dataset: flash ", "dataset: My-flash ")
    assert "Nothing to do" in press(copy, "--dataset", "My-flash").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "nowhere"], "error: nowhere: no such folder"),
        (["--dataset", "nowhere"], "error: data/raw/nowhere: no such folder; there are: flash"),
        (["--profile", "nowhere"], "nowhere.yaml; profiles here: embedded, sd15"),
    ],
)
def test_what_is_not_there_is_named_and_nothing_is_changed(copy, arguments, message):
    before = (copy / "params.yaml").read_bytes()
    result = press(copy, *arguments)
    assert result.returncode == 1
    assert message in result.stderr and "Traceback" not in result.stderr
    assert (copy / "params.yaml").read_bytes() == before


def test_a_missing_model_folder_stops_before_any_stage(copy):
    set_value(copy / "profiles/embedded.yaml", "clip_model", "models/embedded/none")
    result = press(copy)
    assert result.returncode == 1
    assert "error: models/embedded/none: no such model folder" in result.stderr
    assert "Running stage" not in result.stdout


def test_a_package_that_is_not_installed_is_named(copy):
    (copy / "requirements.txt").write_text("no-such-package==1.0\n")
    result = press(copy)
    assert result.returncode == 1
    assert "error: not installed: no-such-package; run `pip install -r requirements.txt`" in result.stderr


def test_a_folder_without_git_is_named(copy):
    shutil.rmtree(copy / ".git")
    result = press(copy)
    assert result.returncode == 1
    assert "no Git repository; DVC works in one" in result.stderr


def test_a_stage_that_stops_is_passed_on_with_what_to_do(copy):
    for path in (copy / "data/raw/flash").glob("*.png"):
        path.unlink()
    result = press(copy)
    assert result.returncode == 1
    assert "error: data/raw/flash: no drawings; put image files" in result.stderr
    assert "`dvc repro` stopped, see above" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_shows_examples():
    shown = run("python", "main.py", "--help", cwd=ROOT).stdout
    assert "python main.py --images ~/flash" in shown
