"""What a clone, a path or a folder around the project must not change."""

import re
import shutil
import sys

import pytest
from conftest import ROOT, commit, copy_project, run


def test_a_clone_with_windows_line_ends_has_the_same_bytes(project, tmp_path):
    run("git", "clone", "-q", "-c", "core.autocrlf=true", str(project), str(tmp_path / "clone"), cwd=tmp_path)
    assert run("git", "status", "--porcelain", cwd=tmp_path / "clone").stdout == ""
    for name in run("git", "ls-files", "-z", cwd=project).stdout.split("\0")[:-1]:
        assert (tmp_path / "clone" / name).read_bytes() == (project / name).read_bytes(), name


def test_no_file_in_git_has_windows_line_ends():
    shown = run("git", "ls-files", "--eol", cwd=ROOT).stdout.splitlines()
    assert [line for line in shown if "i/crlf" in line or "i/mixed" in line] == []


@pytest.mark.parametrize("package", ["stages", "app", "tattoo_lora"])
def test_a_package_of_the_same_name_elsewhere_does_not_win(tmp_path, package):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise SystemExit('foreign')\n")
    code = f"import {package}; print({package}.__file__)"
    found = run("env", f"PYTHONPATH={tmp_path}", "python", "-c", code, cwd=ROOT).stdout
    assert found.strip() == str(ROOT / package / "__init__.py")


@pytest.mark.parametrize("module", ["stages.preprocess", "stages.encode", "app.generate", "bench.inference"])
def test_a_python_without_the_packages_is_one_line(module):
    result = run(sys.executable, "-S", "-m", module, cwd=ROOT, check=False)  # no site-packages
    assert result.returncode == 1
    assert re.fullmatch(
        r"error: .*python\S* has no diffusers, numpy, torch, yaml; activate the environment .`source .venv.*\n",
        result.stderr,
    )


def test_it_runs_in_a_subfolder_of_a_git_repository(project, tmp_path):
    copy = copy_project(project, tmp_path / "all/art/tattoo")
    shutil.rmtree(copy / ".git")
    run("git", "init", "-q", cwd=tmp_path / "all")
    commit(tmp_path / "all")
    (copy / "data/raw/empty").mkdir()
    result = run("python", "main.py", "--dataset", "empty", cwd=copy, check=False)
    assert "error: data/raw/empty: no drawings" in result.stderr  # the first stage ran
    result = run("dvc", "repro", "preprocess", cwd=copy, check=False)
    assert "Git repository" not in result.stderr
    shown = run("git", "status", "--porcelain", cwd=copy).stdout
    assert "data/processed" not in shown and ".scratch" not in shown
