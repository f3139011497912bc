"""A model card as PDF, by fpdf2 (docs/reference/model-card.md). The library is loaded when the first card is asked for.

The standard fonts of PDF know Western European letters alone; any other is shown as `?`, and the JSON and Markdown forms have it.
"""

from collections.abc import Mapping
from typing import Any, Final

from edgefleet_server.model_cards.card_text import ORIGINS
from edgefleet_server.model_cards.errors import PdfUnavailableError
from edgefleet_server.model_cards.model import FactOrigin, ModelCard
from edgefleet_terms.feature_importance import read_importance
from edgefleet_terms.heat_picture import PICTURES, png_of

_WIDE: Final = (52.0, 108.0, 30.0)
_GREY: Final = 110
_LINES: Final[Mapping[str, Any]] = {"borders_layout": "HORIZONTAL_LINES"}
_SPELT: Final = str.maketrans({"→": "->", "≤": "<=", "≥": ">=", "–": "-", "—": "-", "…": "...", "×": "x", "’": "'"})


def pdf(card: ModelCard) -> bytes:
    """Return the card as a PDF file. Raises PdfUnavailableError."""
    try:
        import fpdf
    except ImportError as error:
        raise PdfUnavailableError("this server cannot write PDF: fpdf2 is not installed") from error
    page: Any = fpdf.FPDF(format="A4")
    page.set_creation_date(card.made_at)
    page.set_title(latin(f"Model card of {card.ref}"))
    page.set_auto_page_break(auto=True, margin=15)
    page.add_page()
    page.set_font("Helvetica", "B", 18)
    page.multi_cell(0, 9, latin(f"Model card of {card.ref}"), new_x="LMARGIN", new_y="NEXT")
    page.set_font("Helvetica", "", 9)
    page.multi_cell(0, 5, f"As of {card.made_at:%Y-%m-%d %H:%M} UTC", new_x="LMARGIN", new_y="NEXT")
    for section in card.sections:
        page.ln(3)
        page.set_font("Helvetica", "B", 12)
        page.multi_cell(0, 7, latin(section.title), new_x="LMARGIN", new_y="NEXT")
        page.set_font("Helvetica", "", 8.5)
        with page.table(col_widths=_WIDE, first_row_as_headings=False, line_height=4.6, **_LINES) as table:
            for one in section.facts:
                row = table.row()
                is_missing = one.origin in {FactOrigin.NOT_MEASURED, FactOrigin.NOT_STATED}
                page.set_text_color(_GREY if is_missing else 0)
                for text in (one.name, one.value, ORIGINS[one.origin]):
                    row.cell(latin(text))
        page.set_text_color(0)
    _maps(page, card)
    return bytes(page.output())


def _maps(page: Any, card: ModelCard) -> None:
    maps = read_importance(card.importance).maps[:PICTURES]
    if not maps:
        return
    import io

    page.ln(4)
    page.set_font("Helvetica", "B", 12)
    page.multi_cell(0, 7, "Parts of the picture that matter", new_x="LMARGIN", new_y="NEXT")
    page.set_font("Helvetica", "", 8)
    for at, one in enumerate(maps):
        if at % 4 == 0 and page.get_y() > 230:
            page.add_page()
        x, y = 10 + (at % 4) * 48, page.get_y()
        page.image(io.BytesIO(png_of(one)), x=x, y=y, w=40)
        page.set_xy(x, y + 41)
        page.cell(40, 4, latin(f"class {one.group}, {one.n} pictures" if one.group else f"all, {one.n} pictures"))
        page.set_xy(10, y + 48 if at % 4 == 3 or at == len(maps) - 1 else y)


def latin(text: str) -> str:
    """Return text in the letters that the standard fonts have."""
    return " ".join(text.translate(_SPELT).split()).encode("latin-1", "replace").decode("latin-1")
