"""A Markdown text as one HTML file that stands alone: its pictures are inside, and it loads and runs nothing."""

import base64
import html
import re
from pathlib import Path

from markdown import markdown

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; padding-bottom: .3rem; }
img { max-width: 100%; display: block; margin: .5rem auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; }
th { border-bottom: 2px solid #999; } tr:hover td { background: #f5f5f5; }
code { background: #f3f3f3; padding: 0 .2rem; overflow-wrap: anywhere; }
"""


def plain(text: object) -> str:
    """The text as Markdown and HTML show it, whatever characters it holds: names and texts from disk."""
    return re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", html.escape(str(text), quote=False).replace("\n", " "))


def web_page(title: str, text: str, folder: Path) -> str:
    """The page for a Markdown text whose pictures lie at paths relative to `folder`."""

    def inside(match: re.Match) -> str:
        content = base64.b64encode((folder / html.unescape(match[1])).read_bytes()).decode()
        return f'src="data:image/png;base64,{content}"'

    body = re.sub(r'src="([^"]+)"', inside, markdown(text, extensions=["tables"]))
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
