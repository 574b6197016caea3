"""Programs that use what the pipeline made."""

import tattoo_lora  # noqa: F401, first of all: it says so where the packages are missing
