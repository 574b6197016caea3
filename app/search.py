"""The search of a sweep, by Optuna: which params come next, which trials are hopeless, what has been found.

Its state is a SQLite file, so a sweep that is killed goes on where it was.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import TrialState

from app.sweep_space import Knob, Values
from app.trials import Diverged, Row, Trial, drop_experiments
from tattoo_lora.errors import UserError

FOLDER = Path("runs/sweeps")
SEED = 0  # of the search
STARTUP = 3  # trials that run to their end before one is stopped
OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
TRAINING = 1_000_000  # the pruner's step is this times the number of the training in its trial, plus the training's


@dataclass(frozen=True)
class Plan:
    """What the command line asks for, after checks."""

    name: str
    commit: str
    knobs: list[Knob]
    combinations: list[Values]  # of a grid
    trials: int
    variants: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    def label(self, number: int) -> str:
        return f"{self.name}-{number:02d}"

    def values(self, trial: optuna.trial.BaseTrial) -> Values:
        """The trial's value of each knob."""
        return {knob.name: knob.pick(trial) for knob in self.knobs}

    def trial(self, number: int, values: Values) -> Trial:
        label, settings = self.label(number), tuple(f"{name}={value}" for name, value in values.items())
        names = {f"{label}-seed{seed}" if len(self.seeds) > 1 else label: seed for seed in self.seeds}
        return Trial(self.commit, names, settings, self.variants, self.folder / "logs")


@dataclass
class Course:
    """A trial that runs: what the study has of it, and the lowest val_loss of each of its trainings so far."""

    study: optuna.Study
    trial: optuna.Trial
    values: Values
    label: str
    place: str = ""
    deaths: int = 0
    lowest: dict[int, float] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)

    def begin(self, place: str) -> None:
        """Note where it runs."""
        self.place = place
        self.trial.set_user_attr("place", place)

    def take(self, row: Row) -> bool:
        """Take in a row; whether the pruner ends the trial with it."""
        training, step, val_loss = row
        self.lowest[training] = min(val_loss, self.lowest.get(training, val_loss))
        self.steps[training] = step
        self.trial.report(self.score, TRAINING * training + step)
        if self.trial.should_prune():
            self.end(TrialState.PRUNED, f"stopped at step {step}")
            return True
        return False

    @property
    def score(self) -> float:
        return sum(self.lowest.values()) / len(self.lowest)

    def end(self, state: TrialState, reason: str = "") -> None:
        """Tell the study, once all else is kept."""
        seconds = self.trial.user_attrs.get("seconds", 0) + time.monotonic() - self.since
        others = {"seconds": seconds, "steps": sum(self.steps.values()), "reason": reason}
        for key, value in others.items():
            self.trial.set_user_attr(key, value)
        self.study.tell(self.trial, self.score if state == TrialState.COMPLETE else None, state)


def open_study(plan: Plan, pruning: bool) -> optuna.Study:
    """The sweep's study, with what was finished before; UserError if it was started with other settings."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{plan.folder}/study.db",
        study_name="sweep",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(STARTUP) if pruning else optuna.pruners.NopPruner(),
    )
    settings = {
        "commit": plan.commit,
        "knobs": [repr(knob) for knob in plan.knobs],
        "variants": list(plan.variants),
        "seeds": list(plan.seeds),
        "pruning": pruning,
    }
    begun = study.user_attrs.get("settings", settings)
    if others := [key for key in settings if begun[key] != settings[key]]:
        raise UserError(
            f"{plan.folder}: this sweep was begun with other {' and '.join(others)}; give the new one a --name"
        )
    study.set_user_attr("settings", settings)
    for values in plan.combinations:
        study.enqueue_trial(values, skip_if_exists=True)
    return study


def open_trials(study: optuna.Study, plan: Plan) -> Iterator[Course]:
    """The trials that are still to run, first those that were broken off."""
    begun = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for frozen in begun:
        trial = optuna.Trial(study, frozen._trial_id)
        yield course_with(study, plan, trial)
    while (count := sum(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))) < plan.trials:
        # A seed for each trial, so that a sweep that goes on draws the same as one that was not broken off.
        study.sampler = optuna.samplers.TPESampler(seed=SEED + count)
        yield course_with(study, plan, study.ask())


def course_with(study: optuna.Study, plan: Plan, trial: optuna.Trial) -> Course:
    """The trial's course at its beginning; this is where the search picks the values."""
    return Course(study, trial, plan.values(trial), plan.label(trial.number))


def conclude(course: Course, plan: Plan) -> None:
    """Print what a trial that is over came to; one that was stopped leaves no experiments."""
    if course.study.get_trials(deepcopy=False)[course.trial.number].state == TrialState.PRUNED:
        drop_experiments(plan.trial(course.trial.number, course.values))
    print(progress_line(course.study, plan, course.trial.number), flush=True)


def follow(course: Course, rows: Iterator[Row]) -> None:
    """Take in the rows to their end, or to where the pruner stops the trial."""
    try:
        for row in rows:
            if course.take(row):
                return
    except Diverged as error:
        course.end(TrialState.FAIL, str(error))
        return
    course.end(TrialState.COMPLETE)


def best_trials(study: optuna.Study, count: int) -> list[optuna.trial.FrozenTrial]:
    """Those with the lowest scores, the earlier first among equals."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda trial: (trial.value, trial.number))[:count]


def progress_line(study: optuna.Study, plan: Plan, number: int) -> str:
    """What a trial that is over came to."""
    trials = study.get_trials(deepcopy=False)
    trial, over = trials[number], sum(trial.state in OVER for trial in trials)
    values = " ".join(f"{knob.key.rpartition('.')[2]}={knob.pick(trial)}" for knob in plan.knobs)
    done = trial.state == TrialState.COMPLETE
    result = f"val_loss {trial.value:.4f}" if done else trial.user_attrs["reason"]
    best = " (best so far)" if done and trial.number == study.best_trial.number else ""
    seconds, place = trial.user_attrs["seconds"], trial.user_attrs["place"]
    return f"{over} of {plan.trials}: {plan.label(number)} {values}: {result}{best}, {seconds:.0f} s on {place}"
