"""A trial of a sweep in a fresh clone of the project, on the machine that Ray chose.

    python -m app.clone < job.json     one line of JSON for each row, {"failed": …} or {"diverged": …} at the end

Nothing is shared with the machine of the sweep but Git and DVC's remote: a job names both, and what lies beside the
project on one machine (`cache`) or on all (`snapshots`) if there is such a place.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from app.checks import git
from app.jobs import when_parent_ends
from app.trials import Diverged, Trial, experiment_ref, run_trial
from tattoo_lora.errors import UserError

ORIGIN = "origin"  # Git's own name for where a clone came from


def connect(job: dict) -> None:
    """Let this clone use the places that the job names, and have the trial's experiments that were handed back."""
    who, email = git("log", "-1", "--format=%cn%n%ce").splitlines()
    git("config", "user.name", who)  # for DVC's commit of the experiment: another machine may have no name
    git("config", "user.email", email)
    if job["cache"]:
        dvc("config", "--local", "cache.dir", job["cache"])
    for name, url in job["remotes"].items():
        dvc("remote", "modify", "--local", name, "url", url)
    if job["snapshots"]:
        Path(job["snapshots"]).mkdir(parents=True, exist_ok=True)
        Path(".scratch").mkdir(exist_ok=True)
        Path(".scratch/train").symlink_to(job["snapshots"], target_is_directory=True)
    for name in job["trial"]["seeds"]:
        if git("ls-remote", ORIGIN, experiment_ref(job["trial"]["commit"], name)):
            dvc("exp", "pull", *caches(job), ORIGIN, name)


def caches(job: dict) -> list[str]:
    """Options of push and pull: with a common cache, Git's side is all there is to send."""
    return ["--no-cache"] if job["cache"] else ["--run-cache"]


def dvc(*arguments: str) -> None:
    """UserError with what DVC says if it fails."""
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "it was killed").splitlines()[-1]
        raise UserError(f"`dvc {' '.join(arguments[:2])}` failed: {last}")


def main() -> None:
    job = json.load(sys.stdin)
    if os.name == "posix":  # Ray blocks it in its processes, and what they start inherits that
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGINT))  # as after Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    trial = Trial(**job["trial"] | {"logs": Path(job["trial"]["logs"])})
    try:
        trial.logs.mkdir(parents=True, exist_ok=True)
        connect(job)
        for row in run_trial(trial):
            print(json.dumps(row), flush=True)
        for name in trial.seeds:
            dvc("exp", "push", *caches(job), ORIGIN, name)
    except Diverged as error:
        print(json.dumps({"diverged": str(error)}), flush=True)
    except UserError as error:
        print(json.dumps({"failed": str(error)}), flush=True)


if __name__ == "__main__":
    main()
