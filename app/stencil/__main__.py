"""Make a stencil to print: black on white at a real size, cleaned, as PNG, SVG and PDF.

    python -m app.stencil owl.png --width-mm 90
    python -m app.stencil runs/samples/adhoc/*.png --width-mm 60 --mirror --min-stroke-mm 0.4 --page Letter
    python -m app.stencil owl.png --width-mm 120 --style fine-line --close-gaps-mm 1 --centre-lines

Says whether all lines and gaps are wide enough, and what width of the print is; <name>.stencil.check.png shows where
they are not, and what was joined. Writes <name>.stencil.png (at --dpi, 1 bit) and .svg (outlines, in mm), and
stencils.pdf with all of them, with cut marks and a scale bar: print it at 100%, not "fit to page", and hold a ruler to
the bar. What is larger than a page comes on several that overlap, after a map of them. --mirror is for transfer paper
that is laid face down.
"""

import argparse
from pathlib import Path

from app import OUT
from app.checks import writable
from app.stencil.files import unique_names, write_files
from app.stencil.ink import read_picture, trace
from app.stencil.options import STYLES, check_options, with_style
from app.stencil.paper import HANDLING_MARGIN_MM, PAPERS, Layout, check_height, check_layout
from app.stencil.shading import SHADINGS
from app.stencil.sheets import to_pdf
from tattoo_lora.errors import one_line_errors
from tattoo_lora.files import replace_file


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m app.stencil", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--width-mm", type=float, required=True, help="width of the print")
    parser.add_argument("--dpi", type=int, default=300)
    parser.add_argument("--threshold", type=float, help="grey below which is ink, 0 to 1; default: found by itself")
    parser.add_argument("--smooth-mm", type=float, default=0.15, help="softens edges before they are cut")
    parser.add_argument("--speck-mm2", type=float, default=0.4, help="smaller pieces and holes are dropped")
    parser.add_argument("--min-stroke-mm", type=float, default=0.0, help="thinner strokes are widened")
    styles = "; ".join(f"{name}: {style}" for name, style in STYLES.items())
    parser.add_argument("--style", choices=STYLES, help=f"what the next three are if you do not give them: {styles}")
    parser.add_argument("--line-mm", type=float, help="all lines get this width; areas stay")
    parser.add_argument("--thin-mm", type=float, help="warn where lines are thinner; default: 0.5")
    parser.add_argument("--min-gap-mm", type=float, help="warn where lines are closer; default: 0.5")
    parser.add_argument("--close-gaps-mm", type=float, default=0.0, help="join ends of lines that nearly meet")
    parser.add_argument("--shading", choices=SHADINGS, help="greys, in a layer of the SVG beside the outlines")
    parser.add_argument("--shade-mm", type=float, default=1.5, help="from dot to dot, or line to line")
    parser.add_argument("--centre-lines", action="store_true", help="also strokes with widths, as an SVG")
    parser.add_argument("--mirror", action="store_true", help="for transfer paper")
    parser.add_argument("--transparent", action="store_true", help="PNG without its white")
    parser.add_argument("--page", choices=PAPERS, default=Layout.page)
    margin = f"white rim of the page; {HANDLING_MARGIN_MM} to hold transfer paper by"
    parser.add_argument("--margin-mm", type=float, default=Layout.margin_mm, help=margin)
    parser.add_argument("--overlap-mm", type=float, default=Layout.overlap_mm, help="of a large stencil's pages")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder; default: {OUT}")
    args = vars(parser.parse_args())
    pictures, folder = args.pop("pictures"), args.pop("out")
    layout = Layout(args.pop("page"), args.pop("margin_mm"), args.pop("overlap_mm"))
    with one_line_errors():
        check_layout(layout)
        options = with_style(args)
        check_options(options)
        for path in pictures:
            picture = read_picture(path)
            check_height(path.name, options.width_mm, options.width_mm * picture.height / picture.width)
        writable(folder)
        stencils = [(name, trace(path, options)) for name, path in zip(unique_names(pictures), pictures, strict=True)]
        for name, stencil in stencils:
            print("\n".join(map(str, write_files(name, stencil, options, folder).files.values())))
        with replace_file(folder / "stencils.pdf") as partial:
            to_pdf([(name, stencil.ink) for name, stencil in stencils], partial, options.width_mm, layout)
        print(folder / "stencils.pdf")


if __name__ == "__main__":
    main()
