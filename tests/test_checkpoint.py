"""Interrupted for real: kill -9 and Ctrl-C in the middle of a training, then the same command again."""

import os
import random
import shutil
import signal
import subprocess
import time

import pytest
import torch
from conftest import ENVIRONMENT, copy_project, room_for, run, set_value, start
from safetensors import SafetensorError

from stages.train.checkpoint import Checkpoints

PROCESSED = "data/processed/flash"


@pytest.fixture
def copy(finished, tmp_path):
    project = copy_project(finished, tmp_path / "p")
    set_value(project / "profiles/embedded.yaml", "steps", 30)
    set_value(project / "profiles/embedded.yaml", "eval_every", 5)
    set_value(project / "params.yaml", "checkpoint_every", 5)
    return project


def command(out):
    return [
        *("python", "-m", "stages.train", "blip", "--latents", f"{PROCESSED}/latents.safetensors"),
        *("--drawings", f"{PROCESSED}/drawings.csv", "--captions", f"{PROCESSED}/captions_blip"),
        *("--lora", f"{out}/lora", "--log-csv", f"{out}/log.csv", "--samples", f"{out}/samples"),
    ]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(path):
    return path.read_text().count("\n") if path.exists() else 0


def interrupt(project, arguments, log, row, with_signal):
    """Start the command and send the signal once the log has `row` rows; the exit code and what was printed."""
    process = start(*arguments, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while rows(log) < row and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(random.Random(row).random() / 4)
    os.kill(process.pid, with_signal)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def empty(folder):
    """What DVC does before a rerun: the outputs are gone."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


def test_killed_twice_a_training_ends_with_the_same_bytes(copy):
    run(*command("whole"), cwd=copy)
    for row in (4, 6):
        code, _ = interrupt(copy, command("cut"), copy / "cut/log.csv", row, signal.SIGKILL)
        assert code == -signal.SIGKILL
    empty(copy / "cut")
    resumed = run(*command("cut"), cwd=copy)
    assert "going on after step" in resumed.stdout
    assert contents(copy / "cut") == contents(copy / "whole")
    assert not list((copy / ".scratch/train").iterdir())


@pytest.mark.slow
def test_killed_ten_times_at_random_a_training_ends_with_the_same_bytes(copy):
    set_value(copy / "profiles/embedded.yaml", "steps", 100)
    started = time.monotonic()
    run(*command("whole"), cwd=copy)
    whole_time = time.monotonic() - started
    moments = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(command("cut"), cwd=copy, env=ENVIRONMENT)
        time.sleep(moments.uniform(0, 0.5) * whole_time)
        assert process.poll() is None
        process.kill()
        process.wait()
        empty(copy / "cut")
    resumed = run(*command("cut"), cwd=copy)
    assert "going on after step" in resumed.stdout
    assert contents(copy / "cut") == contents(copy / "whole")


def test_on_a_disk_that_was_full_a_training_goes_on_once_there_is_room(copy):
    run(*command("whole"), cwd=copy)
    adapter = (copy / "whole/lora/final.safetensors").stat().st_size
    # A snapshot has the adapter, two averages of AdamW's and two files of adapters: one fits, two do not.
    shutil.rmtree(copy / ".scratch")
    (copy / ".scratch").mkdir()
    inside = ["unshare", "-rm", "sh", "-c"]
    small_disk = f"mount -t tmpfs -o size={8 * adapter} none .scratch"
    if shutil.which("unshare") is None or subprocess.run([*inside, small_disk], cwd=copy).returncode != 0:
        pytest.skip("needs `unshare -rm`, to mount a small disk without being root")
    train = " ".join(command("cut"))
    full = f"{small_disk} && ! {train} && mount -o remount,size=1g .scratch && {train}"
    done = run(*inside, full, cwd=copy)
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and said[0].startswith("error: the disk is full; make room and repeat the command")
    assert "Traceback" not in done.stderr
    assert "going on after step 5" in done.stdout
    assert contents(copy / "cut") == contents(copy / "whole")


def test_ctrl_c_says_so_and_dvc_repro_goes_on(copy):
    code, output = interrupt(copy, command("cut"), copy / "cut/log.csv", 4, signal.SIGINT)
    assert code == 130 and "stopped" in output and "Traceback" not in output
    assert list((copy / ".scratch/train").iterdir())


def test_a_snapshot_gives_back_state_and_outputs_and_drops_the_one_before(tmp_path):
    folder, log = tmp_path / "lora", tmp_path / "log.csv"
    folder.mkdir()
    (folder / "best").write_text("1")
    log.write_text("a\n")
    checkpoints = Checkpoints(str(tmp_path / "run"), [folder, log, tmp_path / "none"])
    assert checkpoints.load() is None and not checkpoints.restore_outputs() and log.exists()
    checkpoints.save(1, {"x": torch.ones(2)})
    state = {"x": torch.arange(3.0), "nested": {0: [torch.zeros(1), None, 0.1, float("inf")], "flag": True}}
    checkpoints.save(2, state)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step00000002"]
    (folder / "best").write_text("2")
    (folder / "later").write_text("3")
    log.unlink()
    assert checkpoints.restore_outputs()
    loaded = checkpoints.load()
    assert torch.equal(loaded["x"], state["x"]) and torch.equal(loaded["nested"][0][0], torch.zeros(1))
    assert loaded["nested"][0][1:] == [None, 0.1, float("inf")] and loaded["nested"]["flag"] is True
    assert contents(folder) == {(folder / "best").relative_to(folder): b"1"} and log.read_text() == "a\n"
    checkpoints.clear()
    assert checkpoints.load() is None


def test_half_a_snapshot_is_not_picked_up(tmp_path):
    checkpoints = Checkpoints(str(tmp_path / "run"), [])
    checkpoints.save(1, {"step": 1})
    (tmp_path / "run/partial123").mkdir()
    assert checkpoints.load() == {"step": 1}
    checkpoints.save(2, {"step": 2})
    assert checkpoints.load() == {"step": 2}


def test_of_several_snapshots_the_newest_is_picked_up_whatever_its_step(tmp_path):
    """A kill may leave the one before: 10,000 comes after 9,999."""
    checkpoints = Checkpoints(str(tmp_path / "run"), [])
    checkpoints.save(9_999, {"step": 9_999})
    shutil.copytree(tmp_path / "run", tmp_path / "kept")
    checkpoints.save(10_000, {"step": 10_000})
    shutil.copytree(tmp_path / "kept", tmp_path / "run", dirs_exist_ok=True)
    assert len(list((tmp_path / "run").iterdir())) == 2
    assert checkpoints.load() == {"step": 10_000}


def test_a_snapshot_that_does_not_fit_on_the_disk_leaves_the_one_before(tmp_path):
    checkpoints = Checkpoints(str(tmp_path / "run"), [])
    checkpoints.save(1, {"x": torch.ones(3)})
    with room_for(1000), pytest.raises((OSError, SafetensorError)):
        checkpoints.save(2, {"x": torch.zeros(3000)})
    assert checkpoints.load()["x"].tolist() == [1, 1, 1]


def test_two_processes_of_one_training_do_not_disturb_each_other(tmp_path):
    """As two queued experiments that differ in what comes after the training."""
    one, other = (Checkpoints(str(tmp_path / "run"), []) for _ in range(2))
    one.save(5, {"step": 5})
    other.save(5, {"step": 5})  # is there already
    one.save(10, {"step": 10})
    other.save(7, {"step": 7})  # is behind: the newest stays
    assert one.load() == other.load() == {"step": 10}
    ended = subprocess.Popen(["true"])
    ended.wait()
    for pid in (os.getpid(), ended.pid):
        (tmp_path / f"run/partial{pid}").mkdir()
    other.clear()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [f"partial{os.getpid()}"]  # is being written
    one.save(12, {"step": 12})
    assert one.load() == {"step": 12}
    one.clear()
    assert not (tmp_path / "run").exists()
