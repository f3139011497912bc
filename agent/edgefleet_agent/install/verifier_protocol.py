"""Messages between agentd and the install child: MessagePack with tag `t`, one per SOCK_SEQPACKET packet on descriptor 3.

1. agentd → child: `Task`, then `Document` parts (kinds desired and hold);
   later `Meta`, `Blocks` as answers, `Fetch`, `Relink`, `Finish`.
2. child → agentd: `NeedMeta`, `NeedBlocks` at any time; `Accepted` or `Refused` once;
   per `Fetch` `FetchProgress` … `Fetched` or `FetchFailed`.
3. agentd relays bytes it never looks into; the child believes none of them before it has verified them.
4. A packet is at most 128 KiB of payload plus its header. The child exits when the socket closes.
5. Light: msgspec and the protocol package only, because agentd imports this module.
"""

from typing import Literal

import msgspec

from edgefleet_agent.install.records import SlotInfo, Wanted
from edgefleet_protocol.blocks import MAX_DATA_MESSAGE_BYTES
from edgefleet_protocol.errors import BadMessageError
from edgefleet_protocol.messages import Seen

CHILD_FD = 3
MAX_PACKET_BYTES = MAX_DATA_MESSAGE_BYTES + 4096
MAX_DOCUMENT_PART_BYTES = 64 * 1024

TaskKind = Literal["desired", "hold", "fetch"]


class Packet(msgspec.Struct, frozen=True, tag_field="t"):
    """Root of all packets."""


# ---- agentd -> child


class Task(Packet, frozen=True, tag="task"):
    """What this child is for. state_dir: the agent's state folder. repo_head: last payload of `repo/head`, b"" = none seen.

    first_req_id: for block requests, above every one this agent has used.
    block_timeout_s: the shortest wait before leaves are asked for again.
    """

    kind: TaskKind
    state_dir: str
    device: str
    repo_head: bytes = b""
    first_req_id: int = 1
    credit: int = 8
    meta_timeout_s: float = 10.0
    block_timeout_s: float = 1.0
    no_progress_s: float = 120.0


class Document(Packet, frozen=True, tag="document"):
    """A part of the raw envelope."""

    data: bytes
    last: bool


class Meta(Packet, frozen=True, tag="meta"):
    """One chunk of an answer to `NeedMeta`; `error` as in `messages.MetaReply`."""

    name: str
    part: int
    parts: int
    data: bytes = b""
    error: str = ""


class Blocks(Packet, frozen=True, tag="blocks"):
    """A payload of `dn/blk`, as received."""

    payload: bytes


class Fetch(Packet, frozen=True, tag="fetch"):
    """Bring this bundle into this slot. `wanted` is from `desired.ok`."""

    wanted: Wanted
    slot: str


class Relink(Packet, frozen=True, tag="relink"):
    """The broker connection was made again: ask again for what is missing."""


class Finish(Packet, frozen=True, tag="finish"):
    """Nothing more to do."""


# ---- child -> agentd


class NeedMeta(Packet, frozen=True, tag="need_meta"):
    """Ask the server for one small file. A newer request for the same name replaces the older one."""

    name: str
    max_bytes: int


class NeedBlocks(Packet, frozen=True, tag="need_blocks"):
    """Ask for leaves of one blob. wanted: rising, within 256 of the first. req_id rises, also from child to child.

    repeats: how many ids before this one asked for the same.
    """

    req_id: int
    blob: str
    wanted: list[int]
    leaves_per_message: int
    credit: int
    repeats: int = 0


class Accepted(Packet, frozen=True, tag="accepted"):
    """`desired.ok` (or `hold.ok`) is on the disk. gen: of the document, seq of a hold."""

    gen: int


class Refused(Packet, frozen=True, tag="refused"):
    """The document was refused. error_class: of `messages.ErrorClass`. gen: 0 when it could not be read.

    retry: the reason lies in the moment (connection, disk, memory), so the same document is tried again later. again_s: agentd's own
    word, after how many seconds that will be; 0 = as soon as may be.
    seen: the server's repository is older than what this device has seen, so the document is worth trying with the next one.
    """

    code: str
    reason: str
    error_class: str
    gen: int = 0
    retry: bool = False
    seen: Seen | None = None
    again_s: float = 0.0


class FetchProgress(Packet, frozen=True, tag="fetch_progress"):
    """How far a fetch is. verifying: all leaves are there, the whole is being checked."""

    model: str
    done_bytes: int
    total_bytes: int
    verifying: bool = False


class Fetched(Packet, frozen=True, tag="fetched"):
    """The slot holds the bundle, verified whole; its `slot.msgpack` is on the disk. refetched: leaves that came damaged once."""

    model: str
    info: SlotInfo
    received_bytes: int = 0
    refetched: int = 0


class FetchFailed(Packet, frozen=True, tag="fetch_failed"):
    """The bundle could not be brought or was refused; the slot is not valid."""

    model: str
    code: str
    reason: str
    error_class: str


class Notice(Packet, frozen=True, tag="notice"):
    """Something the server should know that stops nothing, for example `trust.floor_lost`."""

    code: str
    reason: str


ToChild = Task | Document | Meta | Blocks | Fetch | Relink | Finish
FromChild = NeedMeta | NeedBlocks | Accepted | Refused | FetchProgress | Fetched | FetchFailed | Notice

_encoder = msgspec.msgpack.Encoder()
_to_child: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
_from_child: msgspec.msgpack.Decoder[FromChild] = msgspec.msgpack.Decoder(FromChild)


def encode_packet(message: ToChild | FromChild) -> bytes:
    """Return one packet. Raises BadMessageError when it would not fit."""
    data = _encoder.encode(message)
    if len(data) > MAX_PACKET_BYTES:
        raise BadMessageError(f"a {type(message).__name__} packet of {len(data)} bytes is over {MAX_PACKET_BYTES}")
    return data


def decode_to_child(data: bytes) -> ToChild:
    """Return agentd's packet. Raises BadMessageError."""
    try:
        return _to_child.decode(data)
    except msgspec.MsgspecError as error:
        raise BadMessageError(f"agentd sent a packet that cannot be read: {error}") from error


def decode_from_child(data: bytes) -> FromChild:
    """Return the child's packet. Raises BadMessageError."""
    try:
        return _from_child.decode(data)
    except msgspec.MsgspecError as error:
        raise BadMessageError(f"the install child sent a packet that cannot be read: {error}") from error
