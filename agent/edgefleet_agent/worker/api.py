"""The local inference API: Open Inference Protocol v2 REST, statistics, read-only repository index, and predict.

1. A request for this model and version is answered here; one for another goes to that worker (`forward.py`).
2. Decoding, inference and encoding are one job of the engine: at most one hand-over per request (`engine.py` says when none).
3. 400: the request does not fit, with what was expected. 404: no such model. 413, 415: body. 503: not ready or busy. 504: too slow.
"""

import hashlib
import random
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from edgefleet_agent import __version__
from edgefleet_agent.worker import predict as predicting
from edgefleet_agent.worker import wire
from edgefleet_agent.worker.engine import BusyError, DeadlineError, Engine, InlinePolicy
from edgefleet_agent.worker.figures import Figures
from edgefleet_agent.worker.forward import FORWARDED_HEADER, Forwarder, Routes, lane_of_version
from edgefleet_agent.worker.http import Request, Response, error_response, json_response
from edgefleet_agent.worker.loading import ServedModel
from edgefleet_agent.worker.protocol import LaneRoute, ModelRoute
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_runtime.finite import total_nonfinite
from edgefleet_runtime.image import BadImageError, ImageSupportMissingError
from edgefleet_runtime.port import Array, InputError, RunError
from edgefleet_runtime.preprocess import BadPayloadError

SERVER_NAME = "edgefleet"
EXTENSIONS = ["binary_tensor_data", "statistics", "model_repository", "edgefleet_predict"]
KEY_HEADER = b"x-edgefleet-key"

_MODEL_PATH = re.compile(
    r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>ready|infer|predict|stats))?"
)
_PLATFORMS = {"ort": "onnx_onnxruntime", "litert": "tensorflowlite_litert", "tflite": "tensorflowlite"}


class Api:
    """Answers requests for one served model and its neighbours."""

    def __init__(
        self,
        served: ServedModel,
        engine: Engine,
        inline: InlinePolicy,
        figures: Figures,
        routes: Routes,
        forwarder: Forwarder,
    ) -> None:
        self._served = served
        self._engine = engine
        self._inline = inline
        self._figures = figures
        self._routes = routes
        self._forwarder = forwarder
        self._output_names = [s.name for s in served.runtime.outputs]
        start = served.start
        self._infer_paths = {
            f"/v2/models/{start.model}/infer",
            f"/v2/models/{start.model}/versions/{start.version}/infer",
        }

    def handle(self, request: Request) -> Response | Awaitable[Response]:
        """Return the answer to one request, at once where nothing has to be waited for."""
        path = request.target.partition("?")[0]
        if request.method == "POST" and path in self._infer_paths and not self._may_split():
            return self._infer(request)
        if path.startswith("/v2/models/"):
            return self._model_request(request, path)
        return self._server_request(request, path.rstrip("/"))

    # ---- the whole device

    def _server_request(self, request: Request, path: str) -> Response:
        if path == "" and self._served.start.status_page:
            return self._status_page() if request.method in {"GET", "HEAD"} else _not_allowed("GET")
        table = self._routes.table()
        if path == "/v2/repository/index":
            return json_response(200, self._index()) if request.method in {"GET", "POST"} else _not_allowed("GET, POST")
        if path not in {"/v2", "/v2/health/live", "/v2/health/ready"}:
            return error_response(404, f"There is nothing at {path[:200] or '/'}; the API begins at /v2.")
        if request.method not in {"GET", "HEAD"}:
            return _not_allowed("GET")
        if path == "/v2":
            version = table.server_version or __version__
            return json_response(200, {"name": SERVER_NAME, "version": version, "extensions": EXTENSIONS})
        if path == "/v2/health/live":
            return json_response(200, {"live": True})
        waiting = [name for name, route in table.models.items() if not _is_ready(route.lanes.get("active"))]
        return json_response(503 if waiting else 200, {"ready": not waiting})

    def _status_page(self) -> Response:
        from edgefleet_agent.worker.page import status_page  # nobody pays for it who does not look

        return status_page(self._served.start.routes_path, self._statistics())

    def _index(self) -> list[dict[str, str]]:
        rows = []
        for name, route in sorted(self._routes.table(fresh=True).models.items()):
            for lane, entry in sorted(route.lanes.items()):
                state = {"ready": "READY", "starting": "LOADING", "failed": "UNAVAILABLE"}[entry.state]
                rows.append(
                    {"name": name, "version": entry.version, "state": state, "reason": entry.reason, "lane": lane}
                )
        return rows

    # ---- one model

    def _model_request(self, request: Request, path: str) -> Response | Awaitable[Response]:
        match = _MODEL_PATH.fullmatch(path)
        if match is None:
            return error_response(404, f"There is nothing at {path[:200]}.")
        model, version = unquote(match["model"]), match["version"] and unquote(match["version"])
        verb = match["verb"] or "metadata"
        if verb in {"infer", "predict"} and request.method != "POST":
            return _not_allowed("POST")
        if verb not in {"infer", "predict"} and request.method not in {"GET", "HEAD"}:
            return _not_allowed("GET")
        elsewhere = self._elsewhere(request, model, version, verb)
        if isinstance(elsewhere, Response):
            return elsewhere
        if elsewhere is not None:
            self._figures.passed_on()
            return self._forwarder.forward(request, elsewhere.socket)
        match verb:
            case "infer":
                return self._infer(request)
            case "predict":
                return self._queued(self._predict_job(request))
            case "ready":
                return json_response(200, {"name": model, "ready": True})
            case "stats":
                return json_response(200, self._statistics())
            case _:
                return json_response(200, self._metadata())

    def _elsewhere(self, request: Request, model: str, version: str | None, verb: str) -> LaneRoute | Response | None:
        """Return the lane that must answer, None when it is this worker, or an error."""
        start = self._served.start
        mine = model == start.model and version in {None, start.version}
        if mine and (version is not None or request.header(FORWARDED_HEADER) is not None or start.lane != "active"):
            return None
        route = self._routes.table().models.get(model) or self._routes.table(fresh=True).models.get(model)
        if mine:
            return self._split(route, request) if verb in {"infer", "predict"} else None
        if route is None or request.header(FORWARDED_HEADER) is not None:
            return error_response(404, f"There is no model {model[:80]} on this device.")
        lane = route.lanes.get("active") if version is None else lane_of_version(route, version)
        if lane is None:
            return error_response(404, f"The model {model[:80]} has no version {(version or '')[:80]} on this device.")
        if not _is_ready(lane):
            return error_response(503, f"The model {model[:80]} is not ready.", headers=[(b"Retry-After", b"1")])
        return lane

    def _may_split(self) -> bool:
        if self._served.start.lane != "active":
            return False
        route = self._routes.table().models.get(self._served.start.model)
        return route is not None and route.mode == "split"

    def _split(self, route: ModelRoute | None, request: Request) -> LaneRoute | None:
        """Return the candidate's lane for its share of requests: by the caller's key where one is sent, else by chance."""
        candidate = route.lanes.get("candidate") if route is not None else None
        if route is None or route.mode != "split" or not _is_ready(candidate):
            return None
        key = request.header(KEY_HEADER)
        # not security: a caller without a key asks for a random lane
        point = _point(route.salt, key) if key is not None else random.random()  # noqa: S311
        return candidate if point * 100 < route.share_pct else None

    def _metadata(self) -> dict[str, Any]:
        served = self._served
        route = self._routes.table().models.get(served.start.model)
        versions = sorted({r.version for r in route.lanes.values()}) if route else [served.start.version]
        return {
            "name": served.start.model,
            "versions": versions,
            "platform": _PLATFORMS.get(served.runtime.name, served.runtime.name),
            "inputs": [wire.tensor_metadata(s) for s in served.runtime.inputs],
            "outputs": [wire.tensor_metadata(s) for s in served.runtime.outputs],
            "parameters": self._parameters(),
        }

    def _statistics(self) -> dict[str, Any]:
        totals = self._figures.totals()
        good = totals.n - totals.errors
        row = {
            "name": self._served.start.model,
            "version": self._served.start.version,
            "inference_count": good,
            "execution_count": good,
            "inference_stats": {
                "success": {"count": good, "ns": int(totals.run_s * 1e9)},
                "fail": {"count": totals.errors, "ns": int(totals.fail_s * 1e9)},
                "compute_infer": {"count": good, "ns": int(totals.run_s * 1e9)},
            },
        }
        return {"model_stats": [row]}

    # ---- inference

    def _infer(self, request: Request) -> Response | Awaitable[Response]:
        length = request.header(wire.BINARY_HEADER)
        if length is not None and not length.isdigit():
            return error_response(400, "Inference-Header-Content-Length must be a number of bytes.")
        header_length = int(length) if length is not None else None
        job = self._infer_job(request.body, header_length)
        if not (self._engine.is_idle and self._inline.allows(len(request.body))):
            return self._queued(job)
        began = time.perf_counter()
        try:
            return job(_Call())
        except EdgefleetError as e:
            return self._failure(e)
        finally:
            self._inline.took(time.perf_counter() - began)

    async def _queued(self, job: "Callable[[_Call], Response]") -> Response:
        call = _Call()
        try:
            return await self._engine.submit(lambda: job(call), self._served.start.run_timeout_s)
        except EdgefleetError as e:
            call.is_abandoned = isinstance(e, DeadlineError)
            return self._failure(e)

    def _failure(self, error: EdgefleetError) -> Response:
        """Count what went wrong and return the answer that says it."""
        sentence = f"{error.message} {error.next_step}".strip()
        match error:
            case wire.BadRequestError() | InputError() | BadImageError() | BadPayloadError():
                self._figures.refused()
                return error_response(400, sentence)
            case predicting.MediaTypeError():
                self._figures.refused()
                return error_response(415, sentence)
            case ImageSupportMissingError():
                self._figures.refused()
                return error_response(501, sentence)
            case BusyError():
                self._figures.failed()
                return error_response(503, sentence, headers=[(b"Retry-After", b"1")])
            case DeadlineError():
                self._figures.timed_out()
                return error_response(504, sentence)
            case RunError():  # counted where its time is known
                return error_response(500, sentence)
            case _:
                self._figures.failed()
                return error_response(500, sentence)

    def _infer_job(self, body: bytes, header_length: int | None) -> "Callable[[_Call], Response]":
        start = self._served.start

        def job(call: _Call) -> Response:
            request = wire.decode_request(body, header_length, self._served.runtime.inputs, self._output_names)
            outputs, nonfinite = self._run(call, request.inputs)
            head: dict[str, Any] = {"model_name": start.model, "model_version": start.version}
            if request.id:
                head["id"] = request.id
            head["parameters"] = self._parameters(nonfinite)
            answer, json_length = wire.encode_response(head, outputs, request)
            if json_length is None:
                return Response(200, answer)
            headers = [(b"Inference-Header-Content-Length", str(json_length).encode())]
            return Response(200, answer, b"application/octet-stream", headers)

        return job

    def _predict_job(self, request: Request) -> "Callable[[_Call], Response]":
        start = self._served.start
        content_type = (request.header(b"content-type") or b"").decode("latin-1")

        def job(call: _Call) -> Response:
            samples = predicting.decode_samples(self._served, content_type, request.body)
            nonfinite = 0

            def run(inputs: dict[str, Array]) -> dict[str, Array]:
                nonlocal nonfinite
                outputs, count = self._run(call, inputs)
                nonfinite += count
                return outputs

            answer = {
                "model_name": start.model,
                "model_version": start.version,
                "predictions": predicting.predict(self._served, samples, run),
                "parameters": self._parameters(nonfinite),
            }
            return json_response(200, answer)

        return job

    def _run(self, call: "_Call", inputs: dict[str, Array]) -> tuple[dict[str, Array], int]:
        """Return the outputs and how many of their values are not finite; counts the inference."""
        began = time.perf_counter()
        try:
            outputs = self._served.runtime.run(inputs)
        except RunError:
            self._figures.failed(time.perf_counter() - began)
            raise
        elapsed_s = time.perf_counter() - began
        nonfinite = total_nonfinite(outputs.values())
        if call.is_abandoned:
            return outputs, nonfinite  # counted as a timeout already
        classes = self._served.postprocess.classes(outputs)
        # what NaN was asked with may be answered with NaN: that says nothing about the model
        is_broken = nonfinite > 0 and not total_nonfinite(inputs.values())
        self._figures.answered(elapsed_s, nonfinite=is_broken, classes=classes)
        return outputs, nonfinite

    def _parameters(self, nonfinite: int = 0) -> dict[str, Any]:
        start = self._served.start
        parameters: dict[str, Any] = {
            "digest": start.digest,
            "slot": start.slot,
            "lane": start.lane,
            "version": start.version,
        }
        if nonfinite:
            parameters["nonfinite"] = nonfinite
        return parameters


class _Call:
    """One request in the engine. is_abandoned: its caller got a timeout; set by the event loop."""

    __slots__ = ("is_abandoned",)

    def __init__(self) -> None:
        self.is_abandoned = False


def _is_ready(lane: LaneRoute | None) -> bool:
    return lane is not None and lane.state == "ready"


def _point(salt: str, key: bytes) -> float:
    """Return where a key lies in 0 … 1: as ranks of devices do (design README §7)."""
    digest = hashlib.sha256(salt.encode() + b"\0" + key).digest()
    return float(int.from_bytes(digest[:8], "big") / 2**64)


def _not_allowed(allowed: str) -> Response:
    return error_response(405, f"This address takes {allowed}.", headers=[(b"Allow", allowed.encode())])
