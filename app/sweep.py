"""Train with many params, each trial a DVC experiment, and find those with the lowest val_loss.

    python -m app.sweep -S train.rank=4,8,16 --variants blip                  a grid: every combination of lists
    python -m app.sweep -S train.rank=4,8 -S 'learning_rate=1e-4..1e-2:log' --trials 24 --seeds 3    a search (TPE)
    dvc exp apply NAME                                                       take one of the trials

A trial's score is the mean over variants and seeds of the lowest val_loss in the logs; test_loss is measured for the
few best at the end. A trial that is worse than the median of the others at the same step is stopped (--no-pruning).
Stopped or killed, the sweep goes on with the same command: no finished trial runs again, and the one that was broken
off goes on from its snapshot. Its state, table and plot lie in runs/sweeps/NAME.
"""

import argparse
import contextlib
import re
import signal
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from optuna.trial import TrialState

from app.checks import check, check_repository, git
from app.search import Course, Plan, best_trials, follow, open_study, open_trials, progress_line
from app.sweep_results import knob_importance, table_text, trials_table, write_results
from app.sweep_space import Values, grid, read_knobs
from app.trials import evaluate, find_experiment, remove_experiment, run_trial
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.params import Params, Range, load_params


def make_plan(args: argparse.Namespace, params: Params) -> Plan:
    """UserError for anything that would stop the sweep later."""
    knobs = read_knobs(args.settings, Path(), params.profile)
    combinations = grid(knobs)
    check("--seeds", args.seeds, Range(1))
    check("--best", args.best, Range(0))
    if args.trials is not None:
        check("--trials", args.trials, Range(1))
    if combinations and args.trials is not None:
        raise UserError(f"--trials: all {len(combinations)} combinations of lists are tried; leave it out")
    if not combinations and args.trials is None:
        raise UserError("--trials: missing; how many values to try of a range")
    variants = tuple(dict.fromkeys(args.variants or params.variants))
    for variant in variants:
        params.variant(variant)
    name = args.name or "-".join(knob.key.rpartition(".")[2] for knob in knobs)
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
        raise UserError(f"--name {name}: letters, digits, - and _ only, as the experiments are called after it")
    if changed := git("status", "--porcelain", "--untracked-files=no"):
        raise UserError(f"{changed.split()[1]} is not committed; commit first: all trials start from the last commit")
    seeds = tuple(params.train.seed + i for i in range(args.seeds))
    trials = len(combinations) or args.trials
    return Plan(name, git("rev-parse", "HEAD"), knobs, combinations, trials, variants, seeds)


def run_here(study: optuna.Study, plan: Plan) -> None:
    """One trial after another, on this machine."""
    for trial, values in open_trials(study, plan):
        course = Course(study, trial, values, socket.gethostname())
        rows = run_trial(plan.trial(trial.number, values))
        with contextlib.closing(rows):
            follow(course, rows)
        drop_if_pruned(study, plan, trial.number, values)
        print(progress_line(study, plan, trial.number), flush=True)


def drop_if_pruned(study: optuna.Study, plan: Plan, number: int, values: Values) -> None:
    """A trial that was stopped leaves no experiment, however far the next seed had come; its snapshot stays."""
    if study.get_trials(deepcopy=False)[number].state == TrialState.PRUNED:
        for name in plan.trial(number, values).seeds:
            if find_experiment(plan.commit, name):
                remove_experiment(plan.commit, name)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """UserError if this sweep runs already."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise UserError(f"{folder}: this sweep is running; wait for it, or give another one a --name") from None


def run(args: argparse.Namespace) -> None:
    check_repository()
    plan = make_plan(args, load_params())
    with alone(plan.folder):
        study = open_study(plan, args.pruning)
        run_here(study, plan)
        best = best_trials(study, args.best)
        tests = {}
        for trial in best:
            values = {knob.name: knob.pick(trial) for knob in plan.knobs}
            tests[trial.number] = evaluate(plan.trial(trial.number, values))
        labels = [plan.label(number) for number in range(len(study.get_trials(deepcopy=False)))]
        table = trials_table(study, plan.knobs, labels, tests)
        write_results(table, knob_importance(study), plan.folder)
        print(f"\n{table_text(table)}")
        if best:
            name = next(iter(plan.trial(best[0].number, {}).seeds))
            print(f"The best one's params and results: dvc exp apply {name}")
        print(f"Table and plot: {plan.folder}/sweep.csv, {plan.folder}/sweep.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m app.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-S",
        dest="settings",
        action="append",
        required=True,
        metavar="[FILE:]KEY=VALUES",
        help="4,8,16 for a list; 1e-5..1e-3 for a range, with :log for one by orders of magnitude; repeatable",
    )
    parser.add_argument("--variants", nargs="+", help="those to train; default: all of params.yaml")
    parser.add_argument("--trials", type=int, help="how many to try where one -S is a range")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each variant, train.seed and the next ones")
    parser.add_argument("--best", type=int, default=3, help="how many of the best to evaluate on test; default 3")
    parser.add_argument("--no-pruning", dest="pruning", action="store_false", help="run hopeless trials to their end")
    parser.add_argument("--name", help="of the sweep and its experiments; default: the keys")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "The reported value is ignored")  # of a trial that is taken up again
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what stops a batch job stops the trainings too
    with one_line_errors():
        run(args)


if __name__ == "__main__":
    main()
