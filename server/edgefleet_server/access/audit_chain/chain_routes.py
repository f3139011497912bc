"""Routes of the chain of the audit trail: its entries as they are hashed, heads, proofs. All for auditors."""

from collections.abc import Iterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse

from edgefleet_server.access.audit_chain.chain_book import AuditChain, lines
from edgefleet_server.access.audit_chain.chain_schemas import AuditChainOut, AuditHeadOut, AuditProofOut
from edgefleet_server.access.dependency import Auditor
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.web.pagination import ListOf, paged
from edgefleet_server.web.sparse_fields import ListRoute
from edgefleet_terms.audit_chain.hash_chain import ChainedEntry

LINES: Final = "application/octet-stream"
"""What generated clients take as it is."""
MOST_ENTRIES: Final = 50_000
_MOST: Final = 2**62
_LINES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "one entry a line, as the hash covers it, with its hash",
        "content": {LINES: {"schema": {"type": "string", "format": "binary"}}},
    }
}
HeadPage = Annotated[PageRequest, paged("-size", "size")]


def build_chain_router(chain: AuditChain) -> APIRouter:
    """Return the routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["access"], route_class=ListRoute)

    @router.get("/audit/chain", operation_id="get_audit_chain")
    def get_audit_chain(_caller: Auditor) -> AuditChainOut:
        """Return how long the audit trail is, its newest head, and whether it holds as far as the server has read it again."""
        return AuditChainOut.of(chain.state())

    @router.get("/audit/entries", operation_id="get_audit_entries", response_class=StreamingResponse, responses=_LINES)
    def get_audit_entries(
        _caller: Auditor,
        after: Annotated[int, Query(ge=0, le=_MOST)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_ENTRIES)] = MOST_ENTRIES,
    ) -> StreamingResponse:
        """Return the entries behind number `after` in the order of the chain, one JSON object a line: what a check reads."""
        return StreamingResponse(_pieces(lines(chain, after, limit)), media_type=LINES)

    @router.get("/audit/entries/{n}/proof", operation_id="prove_audit_entry")
    def prove_audit_entry(
        n: Annotated[int, Path(ge=1, le=_MOST)],
        _caller: Auditor,
        size: Annotated[int | None, Query(ge=1, le=_MOST)] = None,
        since: Annotated[int | None, Query(ge=1, le=_MOST)] = None,
    ) -> AuditProofOut:
        """Return an entry with its way to the root of a head. size: of the head, else the newest; since: of an older one to come from."""
        return AuditProofOut.of(chain.prove(n, size, since))

    @router.get("/audit/heads", operation_id="list_audit_heads")
    def list_audit_heads(page: HeadPage, _caller: Auditor) -> ListOf[AuditHeadOut]:
        """List the heads, newest first unless `sort` says otherwise."""
        return ListOf.of(chain.heads(page), AuditHeadOut.of)

    @router.get("/audit/heads/{size}", operation_id="get_audit_head")
    def get_audit_head(size: Annotated[int, Path(ge=1, le=_MOST)], _caller: Auditor) -> AuditHeadOut:
        """Return the head over the first `size` entries."""
        return AuditHeadOut.of(chain.head(size))

    return router


def _pieces(found: Iterator[ChainedEntry]) -> Iterator[bytes]:
    piece = bytearray()
    for entry in found:
        piece += entry.line()
        if len(piece) >= 64 * 1024:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)
