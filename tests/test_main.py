"""The one button, pressed for real."""

import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import ROOT, copy_project, run, set_value, start

from main import first_commands
from tattoo_lora.params import load_params


@pytest.fixture
def copy(project, tmp_path):
    return copy_project(project, tmp_path / "p")


def press(project, *arguments):
    return run("python", "main.py", *arguments, cwd=project, check=False)


def test_run_again_it_does_nothing_and_says_so(finished, tmp_path):
    copy = copy_project(finished, tmp_path / "p")
    again = press(copy)
    assert again.returncode == 0
    assert "Nothing to do: everything is up to date." in again.stdout
    assert re.search(r"\n  base +[\d.]+[* ]", again.stdout) and "best of its column" in again.stdout
    assert "plots/comparison.png" in again.stdout and "runs/lora/<variant>/best.safetensors" in again.stdout


def test_what_was_asked_for_is_set_in_the_params_and_nothing_else(copy, tmp_path):
    shutil.copy(copy / "profiles/embedded.yaml", copy / "profiles/mine.yaml")
    (copy / "data/raw/nothing").mkdir()  # no drawings: DVC stops at the first stage
    before = (copy / "params.yaml").read_text(encoding="utf-8").splitlines()
    result = press(copy, "--dataset", "nothing", "--profile", "mine", "-S", "train.rank=4")
    assert "data/raw/nothing: no drawings" in result.stderr
    after = (copy / "params.yaml").read_text(encoding="utf-8").splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [new.replace(new.split()[1], old.split()[1], 1) for old, new in changed] == [old for old, _ in changed]
    assert {new.split()[0]: new.split()[1] for _, new in changed} == {
        "dataset:": "nothing",
        "profile:": "mine",
        "rank:": "4",
    }


@pytest.mark.slow
def test_a_folder_of_drawings_is_brought_in_and_used(finished, tmp_path):
    copy = copy_project(finished, tmp_path / "p")
    mine = tmp_path / "My flash ü"
    shutil.copytree(copy / "data/raw/flash", mine)
    before = (copy / "params.yaml").read_text()
    result = press(copy, "--images", str(mine))
    assert result.returncode == 0, result.stderr
    assert (copy / "data/processed/My-flash-ü/manifest.csv").is_file()
    assert (copy / "params.yaml").read_text() == before.replace("dataset: flash ", "dataset: My-flash-ü ")
    assert "Nothing to do" in press(copy, "--dataset", "My-flash-ü").stdout


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
    set_value(copy / "profiles/embedded.yaml", "clip.id", "models/embedded/none")
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
    assert "python main.py --images ~/my-flash" in shown


def test_a_python_without_the_packages_says_what_to_run(copy, tmp_path):
    bare = [sys.executable, "-S"]  # no site-packages
    result = run(*bare, "main.py", "--help", cwd=copy, check=False)
    assert result.returncode == 1
    assert re.match(r"error: not installed: torch, dvc, diffusers and \d+ more; run `python3 -m venv", result.stderr)
    (copy / ".venv/bin").mkdir(parents=True)
    (copy / ".venv/bin/python").touch()
    result = run(*bare, "main.py", cwd=copy, check=False)
    assert "the environment is in .venv: run `.venv/bin/python main.py`" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_first_commands_are_those_of_the_readme_on_every_system():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert " && ".join(first_commands("posix")) in readme
    assert "\n".join(first_commands("nt")) in readme


def test_another_version_is_named_with_the_one_that_was_tried(copy, tmp_path):
    (copy / "requirements.txt").write_text("PyYAML==1.0\n")
    result = press(copy, "--help")
    assert result.returncode == 0
    assert re.match(
        r"note: PyYAML [\d.]+ instead of 1.0; the project is tested with those of requirements.txt", result.stderr
    )


def start_sleeping(copy):
    """main.py and the pid of a first stage that sleeps."""
    stage = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)\n"
    (copy / "stages/preprocess/__main__.py").write_text(stage)
    press = start("python", "main.py", cwd=copy, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not (copy / "pid").exists() or not (copy / "pid").read_text():
        assert time.monotonic() < deadline and press.poll() is None
        time.sleep(0.1)
    return press, int((copy / "pid").read_text())


def is_gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_stops_the_stage_that_runs_too(copy, tmp_path, number):
    press, stage = start_sleeping(copy)
    press.send_signal(number)
    assert "stopped; run it again and it goes on where it was" in press.communicate(timeout=40)[1]
    assert press.returncode == 128 + number
    assert is_gone(stage)


def test_a_stage_whose_dvc_was_killed_ends_too(copy):
    press, stage = start_sleeping(copy)
    psutil.Process(press.pid).children()[0].kill()
    assert "`dvc repro` stopped, see above" in press.communicate(timeout=40)[1]
    deadline = time.monotonic() + 10
    while not is_gone(stage):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_offline_full_size_names_the_models_and_commands_before_any_stage(copy, tmp_path):
    before = (copy / "params.yaml").read_bytes()
    result = run("env", f"HF_HOME={tmp_path}", "python", "main.py", "--profile", "sd15", cwd=copy, check=False)
    assert result.returncode == 1
    assert "not here yet: stable-diffusion-v1-5/stable-diffusion-v1-5 (4.3 GB), Salesforce/blip" in result.stdout
    assert "error: 3 of 3 models are not in the hub's cache" in result.stderr
    assert (copy / "params.yaml").read_bytes() == before
    guide = (ROOT / "docs/sd15.md").read_text(encoding="utf-8")
    commands = [line.strip() for line in result.stdout.splitlines() if line.startswith("    hf download")]
    assert len(commands) == 3 and all(command in guide for command in commands)


def test_a_checkpoint_file_is_not_called_a_missing_folder(copy):
    set_value(copy / "profiles/embedded.yaml", "base.id", "models/embedded/mine.safetensors")
    assert "error: models/embedded/mine.safetensors: no such checkpoint file" in press(copy).stderr


def test_what_will_happen_is_said_before_it_starts(project, tmp_path):
    mine = tmp_path / "no"
    shutil.copytree(project / "data/raw/flash", mine)
    (mine / "owl.png").unlink()
    copy = copy_project(project, tmp_path / "p")
    (copy / "dvc.yaml").write_text("stages: {}\n")  # nothing to run: what is said before is what counts
    said = press(copy, "--images", str(mine)).stdout
    assert "no: 11 files that may be drawings, about 2 of them held out." in said
    assert "3 adapters, each 4 steps of 4, 1.78 times through 9 drawings: its time is not known yet." in said
    assert "All stages of the sample take two to six minutes on two cores" in said
    assert "The miniature models are a demonstration" in said
    assert "11 of 11 names say what is drawn. To caption by them: python main.py --captions-from" in said
    assert load_params(copy).dataset == "no"
    for stage, took in {
        "train@blip": "All stages of the sample take two to six minutes",
        "report": "The last runs of all stages took 4 minutes",
    }.items():
        (copy / ".scratch/times").mkdir(exist_ok=True)
        (copy / f".scratch/times/{stage}.json").write_text('{"seconds": 120, "ended": 1}')
        assert took in press(copy, "--captions-from", "names-then-blip").stdout
    assert load_params(copy).caption_blip.captions_from == "names-then-blip"


def test_a_folder_with_blanks_in_its_name_is_refused(copy, tmp_path):
    (copy / "data/raw/my flash").mkdir()
    assert "error: data/raw/my flash: letters, digits, - and _ only" in press(copy, "--dataset", "my flash").stderr
