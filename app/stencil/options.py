"""What a stencil is made with, in mm of the print."""

from dataclasses import dataclass

from app.checks import check
from tattoo_lora.params import Range

INCH_MM = 25.4
LIMITS = {  # of Options; larger pictures take minutes and gigabytes
    "width_mm": Range(5, 1000),
    "dpi": Range(72, 1200),
    "threshold": Range(0, 1),
    "smooth_mm": Range(0, 10),
    "speck_mm2": Range(0, 1000),
    "min_stroke_mm": Range(0, 20),
    "min_gap_mm": Range(0, 20),
}


@dataclass(frozen=True)
class Options:
    """The options of a stencil: lengths in mm and areas in mm2 of the print."""

    width_mm: float
    dpi: int = 300
    threshold: float | None = None  # grey below which is ink, 0 to 1; None: Otsu's
    smooth_mm: float = 0.15
    speck_mm2: float = 0.4
    min_stroke_mm: float = 0.0
    min_gap_mm: float = 0.5
    mirror: bool = False
    transparent: bool = False


def check_options(options: Options, width: str = "--width-mm") -> None:
    """UserError if a number is out of bounds; `width` is the option that gives the width."""
    for name, allowed in LIMITS.items():
        if (value := getattr(options, name)) is not None:
            check(width if name == "width_mm" else "--" + name.replace("_", "-"), value, allowed)
