"""Python client of the local inference API; standard library only, arrays if numpy is there.

    model = Model("digits")                       # 127.0.0.1:8500; or url="http://…", socket="/…/run/infer.sock"
    model.predict("seven.png")                    # → {"predictions": [...], ...}
    model.infer({"x": array})                     # → {"y": array}, binary both ways

1. One kept-alive connection per object; not for several threads at once.
2. An inference has no side effect: when the connection turns out closed before the answer began, it is sent once more.
3. The device knows how long the caller waits, so that it does not work for one that has given up.
4. Arrays travel in the binary tensor extension: JSON took 40 to 120 times as long for 100 KB when it was measured.
"""

import http.client
import json
import math
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from edgefleet_agent.datatypes import DATATYPES
from edgefleet_protocol.errors import EdgefleetError

DEFAULT_URL = "http://127.0.0.1:8500"
DEFAULT_TIMEOUT_S = 30.0

_BINARY_HEADER = "Inference-Header-Content-Length"
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
_NUMPY_NAMES = {datatype: name for name, datatype in DATATYPES.items() if name != "string"}


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


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


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
    ) -> None:
        """Name a model; connects on first use. url or socket: where the device listens, else the default port."""
        self.name = name
        self._path = f"/v2/models/{quote(name, safe='')}"
        if version is not None:
            self._path += f"/versions/{quote(version, safe='')}"
        self._url = urlsplit(url or DEFAULT_URL)
        self._socket = str(socket) if socket is not None else None
        self._timeout_s = timeout_s
        self._patience = {"X-Edgefleet-Timeout-Ms": str(max(1, int(timeout_s * 1e3)))}
        self._connection: http.client.HTTPConnection | None = None
        self.trace_id: str | None = None
        """Of the last answer; `flag` takes it."""

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

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

    def ready(self) -> bool:
        """Say whether the model answers now."""
        try:
            status, _, _ = self._exchange("GET", f"{self._path}/ready", b"", {})
        except InferenceUnreachableError:
            return False
        return status == 200

    def predict(self, data: Any, *, content_type: str | None = None) -> dict[str, Any]:
        """Return `{"predictions": [one a sample], "model_version", "parameters", …}`.

        data: a path (image, .csv, .json, .npy), bytes of such a file (with content_type), a numpy array, or what JSON can
        hold (rows, nested lists). Raises InferenceError, InferenceUnreachableError, OSError.
        """
        body, found = _payload(data)
        media = content_type or found
        if media is None:
            raise InferenceError(
                "The content type of these bytes is not known.", status=0, next_step="pass content_type='image/png'"
            )
        return self._json("POST", f"{self._path}/predict", body, {"Content-Type": media})

    def post(self, verb: Literal["infer", "predict"], body: bytes, content_type: str) -> dict[str, Any]:
        """Return the answer to a body that is there already, of `predict` or a v2 request in JSON.

        Raises InferenceError, InferenceUnreachableError.
        """
        return self._json("POST", f"{self._path}/{verb}", body, {"Content-Type": content_type})

    def infer(self, inputs: Mapping[str, Any], *, outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Return output name -> numpy array. inputs: name -> array of the model's dtype and shape.

        Raises InferenceError, InferenceUnreachableError.
        """
        tensors, tails = [], []
        for name, array in inputs.items():
            raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            tails.append(raw)
            tensors.append(
                {
                    "name": name,
                    "shape": list(array.shape),
                    "datatype": DATATYPES.get(array.dtype.name, array.dtype.name),
                    "parameters": {"binary_data_size": len(raw)},
                }
            )
        request: dict[str, Any] = {"inputs": tensors, "parameters": {"binary_data_output": True}}
        if outputs is not None:
            request["outputs"] = [{"name": name} for name in outputs]
        head = json.dumps(request).encode()
        headers = {"Content-Type": "application/octet-stream", _BINARY_HEADER: str(len(head))}
        status, answer, answer_headers = self._exchange(
            "POST", f"{self._path}/infer", b"".join([head, *tails]), headers
        )
        if status != 200:
            raise _refusal(status, answer)
        length = answer_headers.get(_BINARY_HEADER.lower())
        return _decode_outputs(answer, int(length) if length is not None else len(answer))

    def _json(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> dict[str, Any]:
        status, answer, _ = self._exchange(method, path, body, headers or {})
        if status != 200:
            raise _refusal(status, answer)
        value: dict[str, Any] = json.loads(answer)
        return value

    def _exchange(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes, dict[str, str]]:
        for last_try in (False, True):
            kept = self._connection is not None
            if self._connection is None:
                self._connection = self._connect()
            try:
                self._connection.request(method, path, body=body or None, headers={**headers, **self._patience})
                response = self._connection.getresponse()
                data = response.read()
            except (http.client.BadStatusLine, ConnectionError) as e:
                self.close()
                # also a fresh connection may meet a worker that is just being replaced
                if last_try or (not kept and isinstance(e, ConnectionRefusedError)):
                    raise InferenceUnreachableError(f"{self._where()} closed the connection: {e}.") from e
                continue
            except (OSError, http.client.HTTPException) as e:
                self.close()
                raise InferenceUnreachableError(f"{self._where()} cannot be reached: {e}.") from e
            self.trace_id = response.getheader("X-Edgefleet-Trace") or self.trace_id
            if response.will_close:
                self.close()
            return response.status, data, {k.lower(): v for k, v in response.getheaders()}
        raise AssertionError("unreachable")

    def _connect(self) -> http.client.HTTPConnection:
        if self._socket is not None:
            return _UnixConnection(self._socket, self._timeout_s)
        return http.client.HTTPConnection(
            self._url.hostname or "127.0.0.1", self._url.port or 80, timeout=self._timeout_s
        )

    def _where(self) -> str:
        return self._socket or self._url.geturl()


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


def _decode_outputs(body: bytes, json_length: int) -> dict[str, Any]:
    import numpy as np

    document, position, found = json.loads(body[:json_length]), json_length, {}
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        dtype = _NUMPY_NAMES.get(output["datatype"])
        if size is None or dtype is None:
            found[output["name"]] = np.array(output.get("data", []), dtype=object).reshape(output["shape"])
            continue
        flat = np.frombuffer(body, np.dtype(dtype).newbyteorder("<"), math.prod(output["shape"]), position)
        found[output["name"]] = flat.reshape(output["shape"])
        position += size
    return found


def _refusal(status: int, body: bytes) -> InferenceError:
    try:
        message = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        message = f"The device answered with status {status}."
    return InferenceError(str(message), status=status)
