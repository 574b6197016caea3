"""What a stage writes depends on its deps, params and packages: not on where, when and by whom it runs."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, PROCESSED, ROOT, copy_project, set_value

# All in one process, which imports once; each stage starts with the threads that the environment asks for.
STAGES = f"""
import os, runpy, sys
os.umask(int(os.environ["MASK"], 8))
sys.path.insert(0, {str(ROOT)!r})
import torch
data = "{PROCESSED}"
given = ["blip", "--latents", "out/latents.safetensors", "--drawings", f"{{data}}/drawings.csv"]
given += ["--captions", "out/blip"]
for stage, *arguments in (
    ("preprocess", "data/raw/flash", "--out", "out/processed", "--sheet", "out/sheet.png", "--processes", "1"),
    ("caption_blip", data, "--out", "out/blip"),
    ("encode", data, "--out", "out/latents.safetensors"),
    ("train", *given, "--lora", "out/lora", "--log-csv", "out/log.csv", "--samples", "out/samples"),
    (
        "evaluate", *given, "--images", f"{{data}}/images", "--lora", "out/lora/best.safetensors",
        "--out", "out/evaluation",
    ),
):
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sys.argv = [stage, *arguments]
    runpy.run_module(f"stages.{{stage}}", run_name="__main__")
"""
# A file system that lists its files in another order.
REVERSED = """
import os
class Entries:
    def __init__(self, found): self.left = iter(found)
    def __iter__(self): return self
    def __next__(self): return next(self.left)
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def close(self): pass
listdir, scandir = os.listdir, os.scandir
os.listdir = lambda *folder: sorted(listdir(*folder), reverse=True)
os.scandir = lambda *folder: Entries(sorted(scandir(*folder), key=lambda entry: entry.name, reverse=True))
"""
HERE = {"OMP_NUM_THREADS": "1", "TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1", "MASK": "022"}
ELSEWHERE = {
    **{"OMP_NUM_THREADS": "3", "TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7", "MASK": "077"},
    **{"USER": "other", "LOGNAME": "other", "HOSTNAME": "elsewhere"},
}


def results(project: Path, environment: dict[str, str]) -> dict[Path, bytes]:
    """Run all stages that compute, with nothing known from before."""
    set_value(project / "profiles/embedded.yaml", "threads", 2)
    subprocess.run(["rm", "-rf", project / ".scratch"], check=True)
    (project / "out").mkdir()
    ran = subprocess.run(
        ["python", "-c", STAGES], cwd=project, env=ENVIRONMENT | environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return {path.relative_to(project): path.read_bytes() for path in (project / "out").rglob("*") if path.is_file()}


def test_a_stage_writes_the_same_bytes_in_any_place_zone_language_and_number_of_threads(processed, tmp_path):
    here = results(copy_project(processed, tmp_path / "here"), HERE)
    project = copy_project(processed, tmp_path / "elsewhere/with a blank")
    for path in project.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    (tmp_path / "sitecustomize.py").write_text(REVERSED)
    elsewhere = results(project, ELSEWHERE | {"PYTHONPATH": str(tmp_path)})
    assert len(here) > 20 and here.keys() == elsewhere.keys()
    assert [str(path) for path in here if here[path] != elsewhere[path]] == []


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "PASSIVE"), ("KMP_BLOCKTIME", "0")])
@pytest.mark.parametrize("chosen", [None, "another"])
def test_threads_that_wait_sleep_unless_told_otherwise(name, value, chosen):
    """It is set before torch is imported, which reads it then."""
    environment = {key: text for key, text in ENVIRONMENT.items() if key != name} | ({name: chosen} if chosen else {})
    ask = f"import os, sys, tattoo_lora; assert 'torch' not in sys.modules; print(os.environ['{name}'])"
    shown = subprocess.run(["python", "-c", ask], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == (chosen or value)
