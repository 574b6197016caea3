"""What a page needs to start a training and to say how far it is: presets, arguments, the plan, stages."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from app.ahead import training_plan
from app.jobs import Job
from app.own_folder import as_yaml
from app.uploads import SETS
from tattoo_lora.errors import UserError
from tattoo_lora.estimates import TrainingPlan, duration
from tattoo_lora.files import replace_file
from tattoo_lora.params import Params, Profile
from tattoo_lora.times import read_times

PRESETS = {"Quick look": 25, "Normal": 100, "Thorough": 200}  # times through the drawings at most
UNKNOWN = 12  # seconds of a stage that never ran here: mostly imports
LONGEST_TRIGGER = 40  # characters


@dataclass(frozen=True)
class Choice:
    """What a page lets choose."""

    dataset: str
    profile: str
    epochs: float
    steps: int | None
    rank: int
    learning_rate: float
    trigger: str = ""


def arguments(choice: Choice, params: Params, profile: Profile) -> list[str]:
    """main.py's arguments for the choice: epochs always, of the rest what differs from the files."""
    file = f"profiles/{choice.profile}.yaml:"
    settings = {f"{file}train.epochs": choice.epochs}
    if choice.steps != profile.train.steps:
        settings[f"{file}train.steps"] = choice.steps
    if choice.learning_rate != profile.train.learning_rate:
        settings[f"{file}train.learning_rate"] = choice.learning_rate
    if choice.rank != params.train.rank:  # the adapter keeps its strength
        settings |= {"train.rank": choice.rank, "train.alpha": choice.rank}
    for name, variant in params.variants.items():
        if choice.trigger != variant.trigger:
            settings[f"variants.{name}.trigger"] = choice.trigger
    values = [("-S", f"{key}={as_yaml(value)}") for key, value in settings.items()]
    return ["--dataset", choice.dataset, "--profile", choice.profile, *[word for pair in values for word in pair]]


def plan_choice(choice: Choice, params: Params, profile: Profile, drawings: int) -> tuple[TrainingPlan, float]:
    """Each training's plan, and about how many seconds all stages take; UserError for one that cannot be trained."""
    train = replace(profile.train, epochs=choice.epochs, steps=choice.steps, learning_rate=choice.learning_rate)
    plan = training_plan(params, replace(profile, train=train), drawings)
    return plan, sum(stage_seconds(stage_names(Path(), params), plan).values())


def stage_names(root: Path, params: Params) -> list[str]:
    """The stages of dvc.yaml in its order, those of each variant by their full name."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    each = {name: [f"{name}@{variant}" for variant in params.variants] for name in stages if "foreach" in stages[name]}
    return [full for name in stages for full in each.get(name, [name])]


def stage_seconds(stages: list[str], plan: TrainingPlan | None) -> dict[str, float]:
    """About how long each stage takes: the last time here, and of a training what the plan says."""
    times = read_times()
    seconds = {stage: times.get(stage, UNKNOWN) for stage in stages}
    for stage in stages:
        if stage.startswith("train@") and plan and plan.seconds:
            seconds[stage] = plan.seconds + UNKNOWN
    return seconds


def stage_states(log: str, stages: list[str], is_over: bool) -> dict[str, str]:
    """waiting, running, done, unchanged or stopped of each stage, by what DVC printed."""
    states = dict.fromkeys(stages, "waiting")
    current = None
    for name, running, skipped in re.findall(r"(?m)^(?:Running stage|Stage) '([\w@-]+)'(?:(:)|.*?(skip))", log):
        if current:
            states[current] = "done"
        current = name if running and name in states else None
        if name in states:
            states[name] = "running" if running else "unchanged" if skipped else states[name]
    if is_over and current:
        states[current] = "stopped"
    return states


def states_of(job: Job, stages: list[str]) -> dict[str, str]:
    states = stage_states(job.log(), stages, job.is_over)
    if job.status == "done":
        return {name: "done" if state in ("stopped", "running", "waiting") else state for name, state in states.items()}
    return states


def seconds_left(states: dict[str, str], seconds: dict[str, float], share_done: float) -> float:
    """About what is left; `share_done` is of the stage that runs."""
    left = sum(seconds[name] for name, state in states.items() if state == "waiting")
    return left + sum(seconds[name] * (1 - share_done) for name, state in states.items() if state == "running")


def said_plan(plan: TrainingPlan, adapters: int, seconds: float) -> dict[str, str]:
    """The plan as a page's figures."""
    memory = "little" if plan.memory_gb is None else f"from {plan.memory_gb:.1f} GB"
    return {
        "Drawings to learn from": f"{plan.drawings}",
        "Times through them": f"{plan.epochs:.3g}",
        "Steps": f"{adapters} × {plan.steps}",
        "Time, about": duration(seconds) if plan.seconds is not None else f"{duration(seconds)} and the training",
        "Memory": memory,
    }


def last_error(log: str) -> str:
    """The line in which a stage or main.py said why it stopped; the stage's comes first."""
    lines = [line.removeprefix("error: ") for line in log.splitlines() if line.startswith("error: ")]
    return lines[0] if lines else (log.strip().splitlines() or ["nothing was printed"])[-1]


def save_trigger(root: Path, dataset: str, trigger: str) -> None:
    """Remember the set's trigger word for its trainings; UserError for what a command could not take."""
    words = " ".join(trigger.split())
    if not re.fullmatch(rf"[\w -]{{0,{LONGEST_TRIGGER}}}", words):
        raise UserError(f"trigger word: up to {LONGEST_TRIGGER} letters, digits, blanks, - and _ are allowed")
    folder = root / SETS / dataset
    folder.mkdir(parents=True, exist_ok=True)
    with replace_file(folder / "trigger.txt") as partial:
        partial.write_text(words, encoding="utf-8", newline="\n")


def read_trigger(root: Path, dataset: str) -> str:
    try:
        return (root / SETS / dataset / "trigger.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
