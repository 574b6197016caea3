"""Read in a file's name what is drawn: 'heart broken' in 'IMG_2009 heart-broken (1).jpg'; none in 'DSC1.jpg'.

And which names no file can have.
"""

import re

# What Windows keeps for devices, whatever ending follows: no file and no folder there can have such a name.
RESERVED = re.compile(r"(?i:con|prn|aux|nul|com\d|lpt\d)")
MARK = re.compile(r"-[0-9a-f]{8}$")  # what preprocess puts after names that are not plain
CUT = 40  # letters that preprocess keeps of such a name: the last word may be half a word
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
NUMBERED = re.compile(r"([^\W\d_]{3,}|[^\W\d_a-z]+)\d{1,3}")  # owl2; in other scripts one sign may be a word
HEX = re.compile(r"[0-9a-f]{8,}")
# Words that cameras, scanners, file managers and people put into names and nobody draws.
NOISE = set(
    "img image images dsc dscn dscf dcim pxl mvimg pano burst cimg imag gopr snapchat whatsapp signal screenshot "
    "screen shot fullsizerender scan scans scanned scanner photo photos pic pics jpg jpeg png tif tiff webp copy kopie "
    "copia copie final new neu edit edited export exported resized version ver untitled unbenannt unnamed noname file "
    "datei page seite foto bild scannen dpi px cmyk rgb bw am pm".split()
)
# Words that fit every drawing here: kept beside other words, but they say nothing alone.
EMPTY = set("tattoo tattoos flash drawing drawings sketch design line lines art lineart stencil outline ink".split())
JOINING = set("a an the of with and in on at by from for to".split())


def split_words(stem: str) -> list[str]:
    """The words of a preprocessed drawing's name (its stem) that say what is drawn; empty if none do."""
    name, marks = MARK.subn("", UUID.sub(" ", stem.casefold()))
    tokens = [token for token in re.split(r"[\W_]+", name) if token]
    if marks and len(name) >= CUT and len(tokens) > 1:
        tokens.pop()
    words = []
    for token in tokens:
        numbered = NUMBERED.fullmatch(token)
        word = numbered[1] if numbered else token
        letter = len(word) == 1 and word.isascii() and word not in JOINING
        if not (letter or any(c.isdigit() for c in word) or word in NOISE or HEX.fullmatch(word)):
            words.append(word)
    while words and words[0] in JOINING:
        words.pop(0)
    while words and words[-1] in JOINING:
        words.pop()
    return words if set(words) - EMPTY - JOINING else []


def caption_from_name(stem: str) -> str:
    """'a line drawing of an owl' for 'owl', in the form of BLIP's captions; empty if the name says nothing.

    Plurals and names in other scripts have no article.
    """
    words = split_words(stem)
    if not words:
        return ""
    article = "an " if words[0][0] in "aeiou" else "a "
    plain = words[0][0].isascii() and (words[-1].endswith("ss") or not words[-1].endswith("s"))
    return f"a line drawing of {article if plain else ''}{' '.join(words)}"
