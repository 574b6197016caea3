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
import importlib.util
import re
import signal
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
from filelock import FileLock, Timeout

from app.checks import check, check_repository, git
from app.search import Plan, best_trials, conclude, follow, open_study, open_trials
from app.sweep_results import table_text, write_results
from app.sweep_space import grid, read_knobs
from app.trials import evaluate, run_trial
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
    for course in open_trials(study, plan):
        course.begin(socket.gethostname())
        write_results(study, plan)  # also for the dashboard, where it is seen as it grows
        with contextlib.closing(run_trial(plan.trial(course.trial.number, course.values))) as rows:
            follow(course, rows)
        conclude(course, plan)


def plan_cluster(args: argparse.Namespace) -> tuple | None:
    """What `Cluster` takes; None for one trial after another, as without Ray. UserError if only Ray could do it."""
    if args.at_once is not None:
        check("--at-once", args.at_once, Range(1))
    if args.gpus_per_trial is not None:
        check("--gpus-per-trial", args.gpus_per_trial, Range(0))
        if args.gpus_per_trial > 1 and args.gpus_per_trial % 1:
            raise UserError(f"--gpus-per-trial {args.gpus_per_trial:g}: allowed are parts of one GPU and whole ones")
    if not importlib.util.find_spec("ray"):
        for option in ("address", "gpus_per_trial", "at_once"):
            if getattr(args, option) not in (None, 1):
                name = option.replace("_", "-")
                raise UserError(f"--{name}: Ray is not installed: `pip install -r requirements-ray.txt`")
        return None
    if args.at_once == 1 and args.address is None:
        return None
    from app.machines import find_places

    places = find_places(args.address, args.snapshots)
    return places, args.address, args.gpus_per_trial, args.at_once


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
    plan, cluster = make_plan(args, load_params()), plan_cluster(args)
    with alone(plan.folder):
        study = open_study(plan, args.pruning)
        if cluster is None:
            run_here(study, plan)
        else:
            from app.machines import Cluster, run_on_cluster

            run_on_cluster(study, plan, Cluster(*cluster))
        best = best_trials(study, args.best)
        tests = {trial.number: evaluate(plan.trial(trial.number, plan.values(trial))) for trial in best}
        table = write_results(study, plan, tests)
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
    machines = parser.add_argument_group("several at once, if Ray is installed (requirements-ray.txt)")
    machines.add_argument("--at-once", type=int, help="most trials at once; default: as many as there is room for")
    machines.add_argument(
        "--gpus-per-trial", type=float, help="0.5 lets two share one; default: 1 where there are GPUs"
    )
    machines.add_argument("--address", help="of a running Ray cluster, or auto; trials then get all by Git and DVC")
    machines.add_argument("--snapshots", type=Path, help="a folder that all machines share, where trials go on from")
    parser.add_argument("--name", help="of the sweep and its experiments; default: the keys")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "The reported value is ignored")  # of a trial that is taken up again
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what stops a batch job stops the trainings too
    with one_line_errors():
        run(args)


if __name__ == "__main__":
    main()
