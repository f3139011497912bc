"""`need_meta` over the channel: asks for one small file, collects the chunks, asks again after a timeout or a new connection."""

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.install.verifier_protocol import Blocks, Meta, NeedMeta, Relink, Task
from edgefleet_agent.verifier.block_scheduler import RoundTrip
from edgefleet_agent.verifier.channel import Channel
from edgefleet_agent.verifier.errors import TransportError


class MetadataFetcher:
    """Small files by name. `line`: how long their answers take, of those that came without asking again (Karn's rule)."""

    def __init__(self, channel: Channel, task: Task) -> None:
        self._channel = channel
        self._task = task
        self._clock = SystemClock()
        self.line = RoundTrip()

    def __call__(self, name: str, max_bytes: int) -> bytes | None:
        """Return the file, None when the server has none of that name. Raises TransportError."""
        began = now = self._clock.monotonic_s()
        while now < began + self._task.no_progress_s:
            self._channel.send(NeedMeta(name, max_bytes))
            answer = self._collect(name, max_bytes, now + self._task.meta_timeout_s, is_first=now == began)
            if answer is not None:
                return None if answer == "not_found" else bytes(answer)  # type: ignore[arg-type]
            now = self._clock.monotonic_s()
        raise TransportError(f"the server did not answer for {name} within {self._task.no_progress_s:.0f} s")

    def _collect(self, name: str, max_bytes: int, deadline: float, *, is_first: bool) -> bytes | str | None:
        parts: dict[int, bytes] = {}
        asked = self._clock.monotonic_s()
        while (left := deadline - self._clock.monotonic_s()) > 0:
            packet = self._channel.wait_answer(left)
            if packet is None or isinstance(packet, Relink):
                return None
            if isinstance(packet, Blocks) or packet.name != name:
                continue
            if is_first and not parts:
                self.line = self.line.seen(self._clock.monotonic_s() - asked)
            if packet.error:
                return self._refusal(packet)
            parts[packet.part] = packet.data
            if sum(len(data) for data in parts.values()) > max_bytes:
                raise TransportError(f"the server sent more than {max_bytes} bytes for {name}")
            if len(parts) == packet.parts:
                return b"".join(parts[i] for i in sorted(parts))
        return None

    @staticmethod
    def _refusal(packet: Meta) -> str:
        if packet.error == "not_found":
            return packet.error
        raise TransportError(f"the server answered {packet.error} for {packet.name}")
