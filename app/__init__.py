"""Programs that use what the pipeline made."""

from pathlib import Path

import tattoo_lora  # noqa: F401, before all others: it says in one line if packages are missing

OUT = Path("runs/samples/adhoc")  # where the programs write pictures, unless told otherwise
