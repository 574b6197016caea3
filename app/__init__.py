"""Programs that use what the pipeline made."""

import tattoo_lora  # noqa: F401, before all others: it says in one line if packages are missing
