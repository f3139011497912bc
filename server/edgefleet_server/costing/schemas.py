"""What goes over the API about costs."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_server.costing.model import CostBy
from edgefleet_server.web.strict_types import Moment

_PRICE: Final = "A number from 0 on; without it no money is claimed for "


class PricesIn(BaseModel):
    """A price file. Any value is taken here: each mistake is named with its place when it is read."""

    model_config = ConfigDict(extra="allow")

    currency: Any = Field(None, description="Three capital letters, such as EUR.")
    down_gb: Any = Field(None, description=f"{_PRICE}bytes sent to devices. Of 10^9 bytes.")
    up_gb: Any = Field(None, description=f"{_PRICE}bytes from devices. Of 10^9 bytes.")
    device_hour: Any = Field(None, description=f"{_PRICE}hours in which devices serve a model.")
    kwh: Any = Field(None, description=f"{_PRICE}energy of devices. Of a kilowatt-hour.")
    conversion_hour: Any = Field(None, description=f"{_PRICE}conversions. Of an hour of a worker.")
    stored_gb_month: Any = Field(None, description=f"{_PRICE}what is kept. Of 10^9 bytes for 30 days.")
    groups: Any = Field(
        None, description="A list of `group` with `down_gb`, `up_gb` or both; the first that fits a device counts."
    )

    def document(self) -> dict[str, Any]:
        """Return the file."""
        return self.model_dump(exclude_unset=True)


class CostIn(BaseModel):
    """A question of what a span cost at given prices."""

    prices: PricesIn
    model: Annotated[str, Field(max_length=63, description="Only of this model.")] = ""
    group: Annotated[str, Field(max_length=63, description="Only of devices in this group.")] = ""
    by: Annotated[CostBy, Field(description="A line for each of these.")] = CostBy.MODEL
    since: Annotated[Moment | None, Field(description="Beginning; without it 30 days before the end.")] = None
    until: Annotated[Moment | None, Field(description="End; without it now.")] = None
