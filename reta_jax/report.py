"""A report's sections as Markdown, or as a folder to be read: index.html, README.md and PNGs.

And how figures are printed.
"""

import html
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from reta_jax.files import write_whole

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em }
img { max-width: 100%; display: block; margin: 1em 0 }
figcaption { color: #555; font-size: 14px }
table { display: block; overflow-x: auto; border-collapse: collapse }
table { font-variant-numeric: tabular-nums }
td, th { border-bottom: 1px solid #ccc; padding: 4px 12px; text-align: right }
td:first-child, th:first-child { text-align: left }
nav a { margin-right: 1em }
"""


class Picture(NamedTuple):
    """A PNG in the report's folder."""

    file: str
    caption: str


class Table(NamedTuple):
    """Rows of text under a head; the first column names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Section(NamedTuple):
    title: str
    text: str = ""  # paragraphs, with an empty line between them; **one that is bold**
    pictures: Sequence[Picture] = ()
    table: Table | None = None


def write_report(folder: Path, title: str, made_by: str, sections: Sequence[Section]) -> None:
    """Writes index.html and README.md into `folder`, where the pictures are already.

    Args:
      made_by: the command, for whoever wants it again.

    Raises InputError if it cannot be written there.
    """
    text = markdown_page(title, sections, f"Made by `{made_by}`.")
    write_whole(folder / "README.md", text.encode())
    write_whole(folder / "index.html", html_page(title, made_by, sections).encode())


def decimals(value: float) -> str:
    """Three decimals, a dash for NaN."""
    return f"{value:.3f}" if math.isfinite(value) else "–"


def figure(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def wide_console() -> Console:
    """For tables with whole figures: 120 columns at least, in a pipe and in a small window, too."""
    return Console(width=max(120, Console().width))


def markdown_page(title: str, sections: Sequence[Section], text: str = "") -> str:
    """Title, text and sections."""
    parts = [f"# {title}", text]
    for section in sections:
        parts += [f"## {section.title}", section.text]
        parts += [markdown_table(section.table)] if section.table else []
        for picture in section.pictures:
            parts += [f"![{picture.caption}]({picture.file})", f"*{picture.caption}*"]
    return "\n\n".join(filter(None, parts)) + "\n"


def markdown_table(table: Table) -> str:
    """Lines of cells: a file's name may have what would end its own."""
    rows = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join("| " + " | ".join(row) + " |" for row in escaped)


def html_page(title: str, made_by: str, sections: Sequence[Section]) -> str:
    """A page that needs nothing but the pictures beside it."""
    text = html.escape
    links = "".join(
        f'<a href="#s{i}">{text(section.title)}</a> ' for i, section in enumerate(sections)
    )
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>",
        f"<h1>{text(title)}</h1>\n<p>Made by <code>{text(made_by)}</code></p>\n<nav>{links}</nav>",
    ]
    for i, section in enumerate(sections):
        parts.append(f'<h2 id="s{i}">{text(section.title)}</h2>')
        parts += map(_html_paragraph, filter(None, section.text.split("\n\n")))
        if section.table:
            parts.append(_html_table(section.table))
        for picture in section.pictures:
            file, caption = text(picture.file, quote=True), text(picture.caption, quote=True)
            parts.append(
                f'<figure><a href="{file}"><img src="{file}" alt="{caption}"></a>'
                f"<figcaption>{caption}</figcaption></figure>"
            )
    return "\n".join([*parts, "</html>", ""])


def _html_paragraph(text: str) -> str:
    bold = re.fullmatch(r"\*\*(.+)\*\*", text, re.DOTALL)
    inside = f"<strong>{html.escape(bold[1])}</strong>" if bold else html.escape(text)
    return f"<p>{inside}</p>"


def _html_table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "\n".join(
        ["<table>", row(table.head, "th"), *(row(cells, "td") for cells in table.rows), "</table>"]
    )
