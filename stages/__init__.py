"""The pipeline: each stage is a file or a folder."""

import tattoo_lora  # noqa: F401, before all others: it says in one line if packages are missing
