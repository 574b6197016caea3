"""What a stencil is made with, in mm of the print."""

from dataclasses import dataclass

from app.checks import check_limits
from tattoo_lora.params import Range

INCH_MM = 25.4


@dataclass(frozen=True)
class Style:
    """Widths in mm that guides for tattooers give, and where they say so; the guides disagree."""

    line_mm: float  # of outlines
    thin_mm: float  # thinner lines do not transfer
    min_gap_mm: float  # narrower gaps close while the skin heals: 1.5 times the outline, but at least 1.5 mm
    source: str

    def __str__(self) -> str:
        return f"lines {self.line_mm:g}, at least {self.thin_mm:g}, gaps {self.min_gap_mm:g} mm"


LINES_GUIDE = "stenciliq.app/guides/tattoo-stencil-line-weight-guide"
GAPS_GUIDES = (
    "tatspark.com/en/library/calculating-optimal-tattoo-line-spacing, aifortattoo.com/en/library/ai-tattoo-line-spacing"
)
STYLES = {
    "fine-line": Style(0.5, 0.3, 1.5, f"0.3 to 0.6 mm: {LINES_GUIDE}; gaps: {GAPS_GUIDES}"),
    "traditional": Style(2.75, 1.0, 4.1, f"2.5 to 3 mm, details from 1 mm: {LINES_GUIDE}; gaps: {GAPS_GUIDES}"),
    "blackwork": Style(2.0, 0.5, 3.0, f"1.5 to 2.5 mm: {LINES_GUIDE}; gaps: {GAPS_GUIDES}"),
}
LIMITS = {  # of Options; larger pictures take minutes and gigabytes
    "width_mm": Range(5, 1000),
    "dpi": Range(72, 1200),
    "threshold": Range(0, 1),
    "smooth_mm": Range(0, 10),
    "speck_mm2": Range(0, 1000),
    "line_mm": Range(0.1, 20),
    "close_gaps_mm": Range(0, 20),
    "min_stroke_mm": Range(0, 20),
    "thin_mm": Range(0, 20),
    "min_gap_mm": Range(0, 20),
    "shade_mm": Range(0.5, 20),
}


@dataclass(frozen=True)
class Options:
    """The options of a stencil: lengths in mm and areas in mm2 of the print."""

    width_mm: float
    dpi: int = 300
    threshold: float | None = None  # grey below which is ink, 0 to 1; None: halfway between ink and paper
    smooth_mm: float = 0.15
    speck_mm2: float = 0.4
    line_mm: float | None = None  # all lines get this width; None: they stay as they are drawn
    close_gaps_mm: float = 0.0
    min_stroke_mm: float = 0.0
    thin_mm: float = 0.5  # stenciliq.app/guides/tattoo-stencil-design-fundamentals
    min_gap_mm: float = 0.5
    shading: str | None = None  # greys as "dots" or "hatching", in a layer of the SVG
    shade_mm: float = 1.5  # from dot to dot, or line to line
    centre_lines: bool = False
    mirror: bool = False
    transparent: bool = False

    @property
    def px_per_mm(self) -> float:
        return self.dpi / INCH_MM


def with_style(given: dict) -> Options:
    """Options by name, `style` among them: a None is what the style says, or without a style the default."""
    given = dict(given)
    style = STYLES.get(given.pop("style"))
    for name in ("line_mm", "thin_mm", "min_gap_mm"):
        if given.get(name) is None:
            given[name] = getattr(style or Options, name)
    return Options(**given)


def check_options(options: Options, width: str = "--width-mm") -> None:
    """UserError if a number is out of bounds; `width` is the option that gives the width."""
    check_limits(options, LIMITS, width_mm=width)
