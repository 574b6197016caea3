"""What CONTRIBUTING.md tells to do, done."""

import json
import re
import shutil

import pytest
from conftest import ROOT, copy_project, run
from test_dag import ran

GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(section: str, language: str) -> list[str]:
    """The code blocks of one section of the guide."""
    text = GUIDE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow  # a training and an evaluation
def test_a_fourth_variant_is_a_block_and_a_stage_or_a_folder_and_trains_only_itself(finished, tmp_path):
    project = copy_project(finished, tmp_path / "p")
    (stage,), (in_dag, knobs) = blocks("A variant", "python"), blocks("A variant", "yaml")
    (project / "stages/shorten.py").write_text(stage, encoding="utf-8")
    head, train, tail = (project / "dvc.yaml").read_text(encoding="utf-8").partition("  train:\n")
    (project / "dvc.yaml").write_text(f"{head}{in_dag}\n{train}{tail}", encoding="utf-8")
    params = project / "params.yaml"
    mine = knobs.replace("short", "mine")  # whose captions are a folder that no stage writes
    params.write_text(params.read_text(encoding="utf-8").rstrip("\n") + f"\n{knobs}{mine}", encoding="utf-8")
    changed = run("git", "status", "--porcelain", cwd=project).stdout.split("\n")[:-1]
    assert [line[3:] for line in changed] == ["dvc.yaml", "params.yaml", "stages/shorten.py"]

    processed = project / "data/processed/flash"
    shutil.copytree(processed / "captions_vanilla", processed / "captions_mine")

    before = {v: (project / f"runs/lora/{v}/best.safetensors").read_bytes() for v in ("vanilla", "blip", "blip_plus")}
    assert ran(run("dvc", "repro", cwd=project)) == {
        *("shorten", "train@short", "evaluate@short", "train@mine", "evaluate@mine", "report")
    }
    assert {v: (project / f"runs/lora/{v}/best.safetensors").read_bytes() for v in before} == before
    text = (project / "plots/comparison.md").read_text(encoding="utf-8")
    assert all(row in text for row in ("| short |", "| mine |", "short - base", "mine - short"))
    assert all(
        f"| **{name}** |" in (project / "metrics/report.md").read_text(encoding="utf-8") for name in ("short", "mine")
    )
    metrics = json.loads(run("dvc", "metrics", "show", "--json", cwd=project).stdout)[""]["data"]
    assert {"metrics/short.json", "metrics/mine.json"} <= set(metrics)
    plots = json.loads(run("dvc", "plots", "show", "--json", cwd=project).stdout)["data"]
    assert all(f'"{name}"' in json.dumps(plots["val_loss"]) for name in ("vanilla", "short", "mine"))
    # The project's own rules hold for the new stage too.
    run("python", "-m", "pytest", "-n", "0", "-q", "tests/test_dependencies.py", cwd=project)
