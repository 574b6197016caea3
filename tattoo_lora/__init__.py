"""What two stages must agree on, one narrow topic a module."""

import gc
import os
import sys
from importlib.util import find_spec

# DVC runs the stages with the shell's `python`, and that may not be the one that has the packages.
if missing := [name for name in ("diffusers", "numpy", "torch", "yaml") if find_spec(name) is None]:
    sys.exit(
        f"error: {sys.executable} has no {', '.join(missing)}; activate the environment (`source .venv/bin/activate`, "
        r"on Windows `.venv\Scripts\activate`) and repeat the command, or run main.py with the python in .venv"
    )
# Set before anyone imports these libraries: their advice is for developers, not for who runs the pipeline.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
# A thread that has no work sleeps. By default it spins, and where other programs want the cores too, a step of training
# took ten times as long. Read by libgomp and by Intel's OpenMP when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")
# Weights without safetensors would start a conversion thread that uses the network; we load safetensors only.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
# Where bitsandbytes is installed, diffusers and peft would import it: a second or more for each stage, and a line about
# kernels that none of them needs. Only train.optimizer: adamw_8bit does, and takes this out again.
sys.modules.setdefault("bitsandbytes", None)
# The libraries' hundreds of thousands of objects stay: looking for dead ones at every 700th made each stage's start
# half a second longer.
gc.set_threshold(10_000)
