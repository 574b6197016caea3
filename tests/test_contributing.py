"""What CONTRIBUTING.md tells to do, done."""

import json
import re

import pytest
from conftest import ROOT, copy_project, run
from test_dag import ran

GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(section: str, language: str) -> list[str]:
    """The code blocks of one section of the guide."""
    text = GUIDE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def beside(text: str, name: str, new: str) -> str:
    """The YAML with `new` wherever `name` stands: in a list on one line, a command, a line or block of its own."""
    lines, out = text.split("\n"), []
    while lines:
        line = lines.pop(0)
        if re.search(rf"[ ,]{name}(\]|$)", line) and not line.strip().startswith(
            "- "
        ):  # [vanilla, blip_plus] and commands
            out.append(re.sub(rf"((?:, | )){name}", rf"\1{name}\1{new}", line))
            continue
        block = [line]
        indent = len(line) - len(line.lstrip())
        if line.strip() == f"{name}:":
            while lines and lines[0].strip() and len(lines[0]) - len(lines[0].lstrip()) > indent:
                block.append(lines.pop(0))
        out += block
        if name in line:
            out += [of.replace(name, new) for of in block]
    return "\n".join(out)


@pytest.mark.slow  # a training and an evaluation
def test_a_fourth_variant_takes_three_files_and_trains_only_itself(finished, tmp_path):
    project = copy_project(finished, tmp_path / "p")
    (stage,), (in_dag, knobs) = blocks("A variant", "python"), blocks("A variant", "yaml")
    (project / "stages/shorten.py").write_text(stage, encoding="utf-8")
    head, train, tail = (project / "dvc.yaml").read_text(encoding="utf-8").partition("  train:\n")
    (project / "dvc.yaml").write_text(f"{head}{in_dag}\n{train}" + beside(tail, "blip_plus", "short"), encoding="utf-8")
    params = project / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").rstrip("\n") + f"\n{knobs}", encoding="utf-8")
    changed = run("git", "status", "--porcelain", cwd=project).stdout.split("\n")[:-1]
    assert [line[3:] for line in changed] == ["dvc.yaml", "params.yaml", "stages/shorten.py"]

    before = {v: (project / f"runs/lora/{v}/best.safetensors").read_bytes() for v in ("vanilla", "blip", "blip_plus")}
    assert ran(run("dvc", "repro", cwd=project)) == {"shorten", "train@short", "evaluate@short", "report"}
    assert {v: (project / f"runs/lora/{v}/best.safetensors").read_bytes() for v in before} == before
    assert "| short |" in (project / "plots/comparison.md").read_text(encoding="utf-8")
    assert "short - base" in (project / "plots/comparison.md").read_text(encoding="utf-8")
    metrics = json.loads(run("dvc", "metrics", "show", "--json", cwd=project).stdout)[""]["data"]
    assert "metrics/short.json" in metrics
    plot = json.loads(run("dvc", "plots", "show", "--json", cwd=project).stdout)["data"]["val_loss"]
    assert "short.csv" in json.dumps(plot)
    # The project's own rules hold for the new stage too.
    run("python", "-m", "pytest", "-n", "0", "-q", "tests/test_dependencies.py", cwd=project)
