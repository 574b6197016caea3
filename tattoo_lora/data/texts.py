"""Reading the text files that people write, whatever their editor puts around the text."""

import codecs
from pathlib import Path

from tattoo_lora.errors import UserError

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """The file's text without a byte order mark, which would be one more token; UserError if it is not UTF-8.

    Raises OSError where the file cannot be read.
    """
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        found = "UTF-16" if raw.startswith(UTF_16) else f"not UTF-8, perhaps Windows-1252 (byte {error.start + 1})"
        raise UserError(f"{path}: the text is {found}; save it as UTF-8") from None
