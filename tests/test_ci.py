"""The workflows, the scripts that they call, and what runs before a commit."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, copy_project, run

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SCRIPTS = sorted((ROOT / ".ci").iterdir())


def test_the_workflows_and_the_citation_are_what_their_schemas_say():
    files_by_schema = {"github-workflows": WORKFLOWS, "citation-file-format": [ROOT / "CITATION.cff"]}
    for schema, files in files_by_schema.items():
        run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, files), cwd=ROOT)


def test_the_citation_has_the_newest_version_of_the_changelog():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, day = re.search(r"^## (\d+\.\d+\.\d+) - (\S+)$", changes, re.MULTILINE).groups()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], str(citation["date-released"])) == (version, day)


def test_every_script_that_a_workflow_calls_is_there():
    called = set()
    for workflow in WORKFLOWS:
        called |= set(re.findall(r"run: \.ci/(\w+)", workflow.read_text(encoding="utf-8")))
    by_hand = {"licences", "plots_page"}
    assert called | by_hand == {script.name for script in SCRIPTS}
    assert all(os.access(script, os.X_OK) for script in SCRIPTS)


def test_a_job_of_every_week_runs_all_slow_tests():
    jobs = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in WORKFLOWS]
    weekly = [job for job in jobs if "schedule" in (job.get(True) or {})]  # YAML 1.1 takes `on` for true
    steps = [step.get("run") for job in weekly for task in job["jobs"].values() for step in task["steps"]]
    assert ".ci/slow" in steps
    assert (ROOT / ".ci/slow").read_text(encoding="utf-8").splitlines()[-1].endswith("pytest -n 0 -m slow")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_bash_that_parses(script):
    run("bash", "-n", str(script), cwd=ROOT)


def test_the_report_has_the_tables_and_what_changed(finished, tmp_path):
    project = copy_project(finished, tmp_path / "p")
    (project / ".venv/bin").mkdir(parents=True)
    python = project / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    metrics = project / "metrics/blip.json"
    metrics.write_text(metrics.read_text().replace('"copies"', '"copied"'))
    report = run("bash", ".ci/report", "HEAD", cwd=project).stdout
    assert (project / "plots/comparison.md").read_text(encoding="utf-8") in report
    assert re.search(r"\| metrics/blip.json +\| copied ", report)
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", report):
        assert (project / picture).is_file()


@pytest.fixture
def checked_in(tmp_path):
    """An empty repository with this one's checks before a commit."""
    run("git", "init", "-q", cwd=tmp_path)
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def before_commit(repository: Path):
    run("git", "add", "-A", cwd=repository)
    return run("pre-commit", "run", "--all-files", cwd=repository, check=False)


def test_a_large_file_is_kept_out_of_git_but_for_the_embedded_models(checked_in):
    (checked_in / "models/embedded").mkdir(parents=True)
    (checked_in / "models/embedded/model.safetensors").write_bytes(bytes(2_000_000))
    assert before_commit(checked_in).returncode == 0
    (checked_in / "adapter.safetensors").write_bytes(bytes(2_000_000))
    refused = before_commit(checked_in)
    assert refused.returncode != 0 and "adapter.safetensors (1954 KB) exceeds 1000 KB" in refused.stdout


def test_code_that_ruff_refuses_is_not_committed(checked_in):
    (checked_in / "stage.py").write_text("import os\n")
    refused = before_commit(checked_in)
    assert refused.returncode != 0 and "`os` imported but unused" in refused.stdout
