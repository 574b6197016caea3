"""The captions that the embedded models learn, from a drawing's name and its medium."""

import torch

STYLES = (
    "minimal line-art tattoo, stencil, high-contrast",  # the words of params.yaml's variants
    "clean line tattoo, high contrast, stencil, no shading",
)
LINE_TEMPLATES = (
    "a line drawing of {a}",
    "a black and white line drawing of {a}",
    "{n}, " + STYLES[0],
    "{a}, " + STYLES[1],
    "a line drawing of {a}, " + STYLES[0],
    "a line drawing of {a}, " + STYLES[1],
)
COLOR_TEMPLATES = (
    "a color picture of {a}",
    "a colorful drawing of {a}",
    "{n}, color illustration",
)
PLAIN_TEMPLATES = ("{n}", "{a}", "a picture of {a}", "a drawing of {a}")
# What the captioner says, one form a medium as BLIP has its own.
LINE_CAPTION = "a line drawing of {a}"
COLOR_CAPTION = "a color picture of {a}"


def with_article(name: str) -> str:
    """'an owl' for 'owl'. Names that are plural or a mass keep the article too: the miniature need not know."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def fill(template: str, name: str) -> str:
    """The template with {n}, the name, and {a}, the name with its article."""
    return template.format(n=name, a=with_article(name))


def draw_caption(templates: tuple[str, ...], name: str, generator: torch.Generator) -> str:
    """One of the templates at random, filled."""
    return fill(templates[int(torch.randint(len(templates), (), generator=generator))], name)
