"""What the routes of conversions answer."""

from pydantic import BaseModel

from edgefleet_server.conversion.tool_stock import ToolStock


class ConverterToolsOut(BaseModel):
    """Tools for sources of other frameworks.

    names: those that can be used, null where this process does not convert and cannot know. folder: where `edgectl tool install
    --tools` puts more of them. reads_pickles: whether the operator has allowed it.
    """

    names: list[str] | None
    folder: str
    reads_pickles: bool

    @classmethod
    def of(cls, stock: ToolStock) -> "ConverterToolsOut":
        """Return the stock as the API tells it."""
        names = None if stock.names is None else sorted(stock.names)
        return cls(names=names, folder=str(stock.folder), reads_pickles=stock.reads_pickles)
