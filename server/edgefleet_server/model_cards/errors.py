"""What model cards refuse."""

from edgefleet_protocol.errors import EdgefleetError


class ModelCardError(EdgefleetError):
    """Base of all errors of model cards."""

    code = "model_card.failed"


class PdfUnavailableError(ModelCardError):
    """The server lacks the library that writes PDF."""

    code = "model_card.pdf_unavailable"
    default_next_step = "install edgefleet[pdf] on the server, or print the page of the card from a browser"
