"""The pipeline: each stage is a file or a folder."""

import tattoo_lora  # noqa: F401, first of all: it says so where the packages are missing
