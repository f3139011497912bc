"""A queue between one producer and one consumer, bounded in bytes and fair by device.

1. The consumer gets one message of each device in turn, each device's in the order in which they came.
2. A device has at most SHARE of the room. What it sends beyond that is refused.
3. When all the room is taken, the newest message of a device that holds much makes room; where nobody holds much, the queue is simply
   full, and the new message is refused.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from edgefleet_protocol.ids import DeviceId

OVERHEAD_BYTES: Final = 512
"""What a waiting message costs beside its payload."""
SHARE: Final = 16
"""A device holds at most this part of the room."""
MUCH: Final = 16
"""A device holds much from this part of its share on."""

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """The queue. Thread-safe; `put` never blocks. on_drop: called for a message that was refused or made room."""

    def __init__(self, room_bytes: int, on_drop: Callable[[DeviceId, Item, int, bool], None]) -> None:
        """on_drop: device, message, payload bytes, whether the device held too much (False: the queue was full of everybody's)."""
        self._room = room_bytes
        self._share = room_bytes // SHARE
        self._on_drop = on_drop
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: OrderedDict[DeviceId, deque[tuple[Item, int]]] = OrderedDict()
        self._held: dict[DeviceId, int] = {}
        self._heavy: dict[DeviceId, None] = {}
        self._bytes = 0
        self._n = 0
        self._wanted = 1

    def __len__(self) -> int:
        return self._n

    @property
    def is_half_full(self) -> bool:
        """Whether more than half of the room is taken."""
        return 2 * self._bytes > self._room

    @property
    def size_bytes(self) -> int:
        """What waits, with its overhead."""
        return self._bytes

    def put(self, device: DeviceId, item: Item, payload_bytes: int) -> None:
        """Let a message wait, or refuse it."""
        size = payload_bytes + OVERHEAD_BYTES
        dropped: list[tuple[DeviceId, Item, int, bool]] = []
        with self._lock:
            held = self._held.get(device, 0)
            if held + size > self._share:
                dropped.append((device, item, payload_bytes, True))
            elif self._bytes + size <= self._room or self._make_room(device, size, dropped):
                self._add(device, item, size, held)
                if self._n == self._wanted:
                    self._changed.notify()
            else:
                dropped.append((device, item, payload_bytes, device in self._heavy))
        for one in dropped:
            self._on_drop(*one)

    def gather(self, wait_s: float, gather_s: float, most: int, most_bytes: int) -> list[Item]:
        """Return the next messages, at most so many and one more than so many bytes: what comes within gather_s of the first."""
        with self._changed:
            self._wanted = 1
            if not self._n and not self._changed.wait_for(lambda: self._n, wait_s):
                return []
            self._wanted = most
            self._changed.wait_for(lambda: self._n >= most or self._bytes >= most_bytes, gather_s)
            return self._take(most, most_bytes)

    def _add(self, device: DeviceId, item: Item, size: int, held: int) -> None:
        line = self._waiting.get(device)
        if line is None:
            line = self._waiting[device] = deque()
        line.append((item, size))
        self._held[device] = held + size
        if held + size > self._share // MUCH:
            self._heavy[device] = None
        self._bytes += size
        self._n += 1

    def _make_room(self, device: DeviceId, size: int, dropped: list[tuple[DeviceId, Item, int, bool]]) -> bool:
        """Drop the newest messages of devices that hold much until `size` bytes fit; say whether they do."""
        while self._bytes + size > self._room:
            if device in self._heavy or not self._heavy:
                return False
            heavy = next(iter(self._heavy))
            line = self._waiting[heavy]
            item, lost = line.pop()
            self._gone(heavy, lost, line)
            dropped.append((heavy, item, lost - OVERHEAD_BYTES, True))
        return True

    def _gone(self, device: DeviceId, size: int, line: deque[tuple[Item, int]]) -> None:
        self._bytes -= size
        self._n -= 1
        held = self._held[device] - size
        if line:
            self._held[device] = held
        else:
            del self._waiting[device], self._held[device]
        if held <= self._share // MUCH:
            self._heavy.pop(device, None)

    def _take(self, most: int, most_bytes: int) -> list[Item]:
        found: list[Item] = []
        taken = 0
        while self._waiting and len(found) < most and taken < most_bytes:
            device, line = next(iter(self._waiting.items()))
            item, size = line.popleft()
            found.append(item)
            taken += size
            if line:
                self._waiting.move_to_end(device)
            self._gone(device, size, line)
        return found
