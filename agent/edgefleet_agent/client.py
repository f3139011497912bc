"""Python client of the local inference API; standard library only, arrays if numpy is there.

    model = Model("digits")                       # 127.0.0.1:8500; or url="http://…", socket="/…/run/infer.sock"
    model.predict("seven.png")                    # → {"predictions": [...], ...}
    model.infer({"x": array})                     # → {"y": array}, binary both ways

1. One kept-alive connection per object. Several threads may use one object: they take turns. A model for each thread asks in parallel.
2. An inference has no side effect: when the connection turns out closed before the whole answer came, it is sent again, on a new one.
3. The device knows how long the caller waits, so that it does not work for one that has given up.
4. A child process that was forked makes connections of its own: on shared ones it would get its parent's answers.
5. Arrays travel in the binary tensor extension: JSON took 40 to 120 times as long for 100 KB when it was measured.
"""

import json
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from edgefleet_agent.links.http_link import Address, BadAnswerError, Buffer, HttpLink, Reply
from edgefleet_agent.links.memory_link import MemoryLink
from edgefleet_agent.links.tensors import AnswerPlans, RequestPlans, tensors_of
from edgefleet_protocol.errors import EdgefleetError

DEFAULT_URL = "http://127.0.0.1:8500"
DEFAULT_TIMEOUT_S = 30.0

_MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".csv": "text/csv",
    ".json": "application/json",
    ".npy": "application/octet-stream",
}


class InferenceError(EdgefleetError):
    """The device answered with an error. status: of HTTP."""

    code = "infer.refused"

    def __init__(self, message: str, *, status: int, next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.status = status


class InferenceUnreachableError(EdgefleetError):
    """Nothing listens for inference there, or it does not answer in time."""

    code = "infer.unreachable"
    default_next_step = "look at `edge-agent status` for the address, and whether a model is serving"


class Model:
    """One model on one device."""

    def __init__(
        self,
        name: str,
        *,
        url: str | None = None,
        socket: str | Path | None = None,
        version: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        shm: bool | None = None,
    ) -> None:
        """Name a model; connects on first use. url or socket: where the device listens, else the default port.

        shm: pass tensors of `infer` through shared memory where the device offers it; None: whenever there is a socket.
        Raises ValueError for shm=True without a socket.
        """
        if shm and socket is None:
            raise ValueError(
                'shared memory needs the unix socket of the device: Model(name, socket="…/run/infer.sock")'
            )
        self.name = name
        self._path = f"/v2/models/{quote(name, safe='')}"
        if version is not None:
            self._path += f"/versions/{quote(version, safe='')}"
        parts = urlsplit(url or DEFAULT_URL)
        self._where = str(socket) if socket is not None else parts.geturl()
        address: Address = str(socket) if socket is not None else (parts.hostname or "127.0.0.1", parts.port or 80)
        self._link = HttpLink(address, timeout_s)
        host = "localhost" if socket is not None else parts.netloc.rpartition("@")[2] or "127.0.0.1"
        patience = max(1, int(timeout_s * 1e3))
        self._common = f"HTTP/1.1\r\nHost: {host}\r\nX-Edgefleet-Timeout-Ms: {patience}\r\n"
        self._requests = RequestPlans(
            f"POST {self._path.replace('%', '%%')}/infer {self._common}Content-Type: application/octet-stream\r\n"
            "Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n"
        )
        self._answers = AnswerPlans()
        self._memory: MemoryLink | None = None
        if shm is not False and socket is not None:
            self._memory = MemoryLink(
                str(socket), f"{self._path}/infer", f"X-Edgefleet-Timeout-Ms: {patience}\r\n", timeout_s
            )
        self._turn = threading.Lock()
        _models.add(self)
        self._trace: str | bytes | bytearray | None = None

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._link.close()
        if self._memory is not None:
            self._memory.close()

    @property
    def is_shared(self) -> bool:
        """Whether tensors go through shared memory now: after the first `infer`, where the device offers it."""
        return self._memory is not None and self._memory.is_open

    @property
    def trace_id(self) -> str | None:
        """Of the last answer; `flag` takes it."""
        trace = self._trace
        return trace.decode("latin-1") if isinstance(trace, bytes | bytearray) else trace

    def metadata(self) -> dict[str, Any]:
        """Return name, versions, platform, inputs, outputs and which bundle serves.

        Raises InferenceError, InferenceUnreachableError.
        """
        return self._json("GET", self._path)

    def flag(self, trace_id: str) -> bool:
        """Ask the device to capture an answer that it gave a moment ago, by its `trace_id`; say whether it could.

        Raises InferenceError, InferenceUnreachableError.
        """
        try:
            self._json("POST", f"{self._path}/flag", trace_id.encode())
        except InferenceError as error:
            if error.status == 404:
                return False
            raise
        return True

    def feedback(
        self,
        trace_id: str = "",
        *,
        label: str | int | None = None,
        value: float | None = None,
        kpi: Mapping[str, float] | None = None,
        segment: str = "",
    ) -> None:
        """Say what was right about an earlier answer, by its `trace_id`: the right class as `label`, or the right number as `value`.

        kpi: business figures by name; alone they belong to no answer. segment: where this counts, a line or a shift, say.
        Raises InferenceError, InferenceUnreachableError.
        """
        item = {"trace_id": trace_id, "label": label, "value": value, "kpi": dict(kpi or {}), "segment": segment}
        self.send_feedback([{name: one for name, one in item.items() if one not in ("", None, {})}])

    def send_feedback(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Send many at once, each as the fields of `feedback` by name; return `{"accepted": n, "refused": [{index, error}]}`.

        Raises InferenceError, InferenceUnreachableError.
        """
        return self._json("POST", f"{self._path}/feedback", json.dumps(list(items)).encode(), "application/json")

    def ready(self) -> bool:
        """Say whether the model answers now."""
        try:
            return self._request("GET", f"{self._path}/ready").status == 200
        except InferenceUnreachableError:
            return False

    def predict(self, data: Any, *, content_type: str | None = None, key: str = "") -> dict[str, Any]:
        """Return `{"predictions": [one a sample], "model_version", "parameters", …}`.

        data: a path (image, .csv, .json, .npy), bytes of such a file (with content_type), a numpy array, or what JSON can
        hold (rows, nested lists). key: the trace id of this answer, of your own choice: 1 to 64 visible ASCII characters.
        Raises InferenceError, InferenceUnreachableError, OSError; ValueError for a key that is none.
        """
        if key and (len(key) > 64 or not all("!" <= letter <= "~" for letter in key)):
            raise ValueError("a key has 1 to 64 visible ASCII characters")
        body, found = _payload(data)
        media = content_type or found
        if media is None:
            raise InferenceError(
                "the content type of these bytes is not known", status=0, next_step="pass content_type='image/png'"
            )
        return self._json("POST", f"{self._path}/predict", body, media, key)

    def post(self, verb: Literal["infer", "predict"], body: bytes, content_type: str, key: str = "") -> dict[str, Any]:
        """Return the answer to a body that is there already, of `predict` or a v2 request in JSON. key: as of `predict`, not checked.

        Raises InferenceError, InferenceUnreachableError.
        """
        return self._json("POST", f"{self._path}/{verb}", body, content_type, key)

    def infer(self, inputs: Mapping[str, Any], *, outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Return output name -> numpy array. inputs: name -> array of the model's dtype and shape.

        Raises InferenceError, InferenceUnreachableError.
        """
        memory, link = self._memory, self._link
        with self._turn:
            try:
                if memory is not None:
                    again = memory.ask_again(inputs) if outputs is None else None
                    if isinstance(again, dict):
                        self._trace = memory.trace
                        return again
                    found = self._through_memory(memory, inputs, outputs, again)
                    if found is not None:
                        return found
                reply = link.ask_again(inputs) if outputs is None else None
                if isinstance(reply, dict):
                    self._trace = link.trace
                    return reply
            except (OSError, BadAnswerError) as e:
                raise InferenceUnreachableError(f"{self._where} cannot be reached: {e}") from e
            plan = self._requests.plan(inputs, outputs)
            if reply is None:
                size = len(plan.head) + plan.body_bytes - len(plan.document)
                reply = self._exchange([plan.head, *tensors_of(inputs, as_is=plan.as_is)], size)
            else:
                self._trace = reply.trace or self._trace
            if reply.status != 200:
                raise _refusal(reply)
            arrays = self._answers.arrays(reply.document, reply.tails)
            places = self._answers.places(reply.document)
            if outputs is None and plan.as_is and places is not None:
                link.expect(plan, inputs, places)
            return arrays

    def _json(self, method: str, path: str, body: bytes = b"", content_type: str = "", key: str = "") -> dict[str, Any]:
        reply = self._request(method, path, body, content_type, key)
        if reply.status != 200:
            raise _refusal(reply)
        value: dict[str, Any] = json.loads(reply.document)
        return value

    def _request(self, method: str, path: str, body: bytes = b"", content_type: str = "", key: str = "") -> Reply:
        head = f"{method} {path} {self._common}"
        if key:
            head += f"X-Edgefleet-Trace: {key}\r\n"
        if content_type:
            head += f"Content-Type: {content_type}\r\n"
        if body or method != "GET":
            head += f"Content-Length: {len(body)}\r\n"
        raw = f"{head}\r\n".encode("latin-1")
        with self._turn:
            return self._exchange([raw, body], len(raw) + len(body))

    def _through_memory(
        self, memory: MemoryLink, inputs: Mapping[str, Any], outputs: Sequence[str] | None, reply: Reply | None
    ) -> dict[str, Any] | None:
        """Return what `infer` returns, None when it must take the socket. reply: where it came already. With the turn. Raises OSError."""
        plan = self._requests.plan(inputs, outputs)
        if reply is None:
            reply = memory.exchange(plan.document, tensors_of(inputs, as_is=plan.as_is), plan.body_bytes)
        if reply is None:
            return None
        self._trace = reply.trace or self._trace
        if reply.status != 200:
            raise _refusal(reply)
        found = self._answers.arrays(reply.document, reply.tails)
        places = self._answers.places(reply.document)
        if outputs is None and plan.as_is and places is not None:
            memory.expect(plan, inputs, reply, places)
        return found

    def _exchange(self, parts: Sequence[Buffer], size: int) -> Reply:
        """Return the answer. With the turn. Raises InferenceUnreachableError."""
        for last_try in (False, True):
            kept = self._link.is_open
            try:
                reply = self._link.exchange(parts, size)
            except ConnectionError as e:
                # also a fresh connection may meet a worker that is just being replaced
                if last_try or (not kept and isinstance(e, ConnectionRefusedError)):
                    raise InferenceUnreachableError(f"{self._where} closed the connection: {e}") from e
                continue
            except (OSError, BadAnswerError) as e:
                raise InferenceUnreachableError(f"{self._where} cannot be reached: {e}") from e
            self._trace = reply.trace or self._trace
            return reply
        raise AssertionError("unreachable")


def media_type_of(path: Path) -> str | None:
    """Return the content type of a file that `predict` takes, by its suffix; None for others."""
    return _MEDIA_TYPES.get(path.suffix.lower())


def _payload(data: Any) -> tuple[bytes, str | None]:
    if isinstance(data, str | Path):
        path = Path(data)
        return path.read_bytes(), media_type_of(path)
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data), None
    if hasattr(data, "__array_interface__"):
        import io

        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, np.asarray(data), allow_pickle=False)
        return buffer.getvalue(), "application/octet-stream"
    return json.dumps(data).encode(), "application/json"


_models: "weakref.WeakSet[Model]" = weakref.WeakSet()


def _leave_to_parent() -> None:
    for model in _models:
        model._turn = threading.Lock()  # a thread that the child does not have may hold it
        model.close()


os.register_at_fork(after_in_child=_leave_to_parent)


def _refusal(reply: Reply) -> InferenceError:
    try:
        message = json.loads(reply.document)["error"]
    except (ValueError, KeyError, TypeError):
        message = f"the device answered with status {reply.status}"
    return InferenceError(str(message), status=reply.status)
