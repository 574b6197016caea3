"""What two stages must agree on, one narrow topic a module."""

import os

# Set before anyone imports these libraries: their advice is for developers, not for who runs the pipeline.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
# Weights without safetensors would start a conversion thread that uses the network; we load safetensors only.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
