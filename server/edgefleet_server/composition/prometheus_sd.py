"""What Prometheus asks where to scrape (HTTP service discovery): this server's own `/metrics`, at the address it was asked at.

- The list does not grow with the fleet: devices are not scraped, they report, and figures of one device are in the REST API alone.
- The address is the one of the request, since only the asker knows by which name it reaches the server (a proxy, a container's name).
- Prometheus takes nothing but a plain JSON list with `application/json`, so this is no `{items, …}`.
Source: the Prometheus documentation, "Writing HTTP service discovery".
"""

import re
from importlib.metadata import version
from typing import Final

from fastapi import APIRouter, Request
from pydantic import BaseModel

from edgefleet_server.access.dependency import Viewer
from edgefleet_server.web.deferred_route import DeferredRoute

METRICS_PATH: Final = "/metrics"
_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


class TargetGroup(BaseModel):
    """Addresses that are scraped alike. labels: those that begin with `__` are for relabelling, and gone after it."""

    targets: list[str]
    labels: dict[str, str]


def build_router(tenant: str) -> APIRouter:
    """Return the route, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["server"], route_class=DeferredRoute)

    @router.get("/prometheus/sd", operation_id="list_scrape_targets")
    def list_scrape_targets(request: Request, _caller: Viewer) -> list[TargetGroup]:
        """Tell Prometheus what to scrape (`http_sd_configs`): this server, at the address of the request; never a device."""
        labels = {
            "__scheme__": request.scope["scheme"],
            "__metrics_path__": METRICS_PATH,
            "__meta_edgefleet_tenant": tenant,
            "__meta_edgefleet_version": version("edgefleet"),
        }
        return [TargetGroup(targets=[_own_address(request)], labels=labels)]

    return router


def _own_address(request: Request) -> str:
    """Return `host:port` under which the asker reached this server; what its socket says when the `Host` header says nothing."""
    match = _HOST.fullmatch(request.headers.get("host", ""))
    if match is None:
        host, port = request.scope["server"]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return match[1] + (match[2] or f":{_PORTS.get(request.scope['scheme'], 80)}")
