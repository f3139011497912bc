"""What the structs of the API are made of. msgspec is loaded here first, and so without a library that it can do without."""

import sys

_LEFT_OUT = "typing_extensions"  # `typing` has all that the structs need; the other costs a third of loading msgspec
_is_left_out = _LEFT_OUT not in sys.modules
if _is_left_out:
    sys.modules[_LEFT_OUT] = None  # type: ignore[assignment]
try:
    from msgspec import UNSET, Struct, convert, field
    from msgspec import UnsetType as Unset
    from msgspec.structs import replace
finally:
    if _is_left_out:
        del sys.modules[_LEFT_OUT]

__all__ = ["UNSET", "Body", "Struct", "Unset", "convert", "field", "replace"]


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a request. A field that is not given is not sent."""
