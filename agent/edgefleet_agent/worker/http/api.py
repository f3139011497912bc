"""The local inference API: Open Inference Protocol v2 REST, statistics, read-only repository index, and predict.

1. A request for this model and version is answered here; one for another goes to that worker (`routing.proxy`).
2. Decoding, inference and encoding are one job of the engine: at most one hand-over per request (`engine.py` says when none).
3. A caller may say how long it waits: `X-Edgefleet-Timeout-Ms`, or Triton's parameter `timeout`. Then it gets its 504 in time, and what
   still waits when it has given up is not run at all.
4. 400: the request does not fit, with what was expected. 404: no such model. 413, 415: body. 503: not ready or busy. 504: too slow.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from edgefleet_agent import __version__
from edgefleet_agent.clock import SystemClock
from edgefleet_agent.worker.control.protocol import LaneRoute
from edgefleet_agent.worker.http import describe, wire
from edgefleet_agent.worker.http import predict as predicting
from edgefleet_agent.worker.http.codec import InferCodec
from edgefleet_agent.worker.http.memory_connection import Direct
from edgefleet_agent.worker.http.model_calls import Call, ModelCalls
from edgefleet_agent.worker.http.quick_answer import QuickAnswer
from edgefleet_agent.worker.http.server import Request, Response, error_response, json_response
from edgefleet_agent.worker.observe.answer_log import TRACE_HEADER, AnswerLog
from edgefleet_agent.worker.observe.kept_log import NOBODY, Caller
from edgefleet_agent.worker.routing.proxy import FORWARDED_HEADER, WorkerProxy
from edgefleet_agent.worker.routing.split import KEY_HEADER, candidate_for
from edgefleet_agent.worker.routing.table import Routes, lane_of_version
from edgefleet_agent.worker.runtime.engine import BusyError, DeadlineError, Engine, InlinePolicy
from edgefleet_agent.worker.runtime.loader import ServedModel
from edgefleet_agent.worker.runtime.stats import WorkerStats
from edgefleet_agent.worker.shadow.frames import Hello
from edgefleet_agent.worker.shadow.mirror import Mirror
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_runtime.image import BadImageError, ImageSupportMissingError
from edgefleet_runtime.port import Array, InputError, RunError
from edgefleet_runtime.preprocess import BadPayloadError

SERVER_NAME = "edgefleet"
EXTENSIONS = [
    "binary_tensor_data",
    "statistics",
    "model_repository",
    "model_configuration",
    "classification",
    "edgefleet_predict",
    "edgefleet_feedback",
]
TIMEOUT_HEADER = b"x-edgefleet-timeout-ms"
SUBJECT_HEADER = b"x-edgefleet-subject"
MAX_CALLER = 128

_MODEL_PATH = re.compile(
    r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>ready|infer|predict|stats|flag|feedback|config))?"
)
_POSTED = frozenset({"infer", "predict", "flag", "feedback"})
_READ_ONLY = re.compile(r"/v2/repository/models/[^/]+/(load|unload)")


class Api:
    """Answers requests for one served model and its neighbours."""

    def __init__(
        self,
        served: ServedModel,
        engine: Engine,
        inline: InlinePolicy,
        figures: WorkerStats,
        routes: Routes,
        forwarder: WorkerProxy,
        answer_log: AnswerLog,
    ) -> None:
        self._served = served
        self._engine = engine
        self._inline = inline
        self._figures = figures
        self._routes = routes
        self._forwarder = forwarder
        self._mirror = Mirror(asyncio.get_running_loop(), lambda: _hello(served), figures)
        self._calls = ModelCalls(served, engine, inline, figures, routes, answer_log, self._mirror)
        self._answer_log = answer_log
        self._clock = SystemClock()
        start = served.start
        self._own_parameters = {
            "digest": start.digest,
            "slot": start.slot,
            "lane": start.lane,
            "version": start.version,
        }
        self._codec = InferCodec(
            served.runtime.inputs,
            [s.name for s in served.runtime.outputs],
            {"model_name": start.model, "model_version": start.version, "parameters": self._own_parameters},
            served.postprocess.labels,
        )
        self._headers: list[tuple[bytes, bytes]] = []
        self._json_bytes = 0
        self._infer_paths = {
            f"/v2/models/{start.model}/infer",
            f"/v2/models/{start.model}/versions/{start.version}/infer",
        }

    def handle(self, request: Request) -> QuickAnswer | Response | Awaitable[Response]:
        """Return the answer to one request, at once where nothing has to be waited for."""
        found = self.quick(request)
        if found is not None:
            return found
        path = request.target.partition("?")[0]
        if request.method == "POST" and path in self._infer_paths and self._calls.mode != "split":
            return self._infer(request)
        if path.startswith("/v2/models/") and path != "/v2/models/stats":
            return self._model_request(request, path)
        return self._server_request(request, path.rstrip("/"))

    def quick(self, request: Request) -> QuickAnswer | Response | None:
        """Return the answer to a request for this model which came before, an error, or None: `handle` must have it."""
        if request.target not in self._infer_paths or request.method != "POST" or self._calls.mode == "split":
            return None
        # the reader of plain heads gives the same list for the same head
        if request.headers is not self._headers:
            self._headers, self._json_bytes = request.headers, _json_bytes(request)
        if not self._json_bytes or self._must_note_key(request):
            return None
        try:
            return self._calls.quick(self._codec, request.body, self._json_bytes)
        except EdgefleetError as e:
            return self._failure(e)

    def _must_note_key(self, request: Request) -> bool:
        kept = self._answer_log.kept
        return kept is not None and kept.is_on and request.header(KEY_HEADER) is not None

    def direct_of(self, request: Request) -> Direct | None:
        """Return what answers infer requests like that one without this API, None when it must have each of them."""
        if request.target not in self._infer_paths or not _is_simple(request) or request.header(KEY_HEADER) is not None:
            return None
        return Direct(self._calls, self._codec, self._failure)

    def home_of(self, target: str) -> str | None:
        """Return the socket of the worker that serves what `target` names, None when it is this one or nobody."""
        match = _MODEL_PATH.fullmatch(target)
        if match is None or unquote(match["model"]) == self._served.start.model:
            return None
        route = self._routes.table(fresh=True).models.get(unquote(match["model"]))
        lane = route.lanes.get("active") if route is not None else None
        return lane.socket if lane is not None and _is_ready(lane) else None

    # ---- the whole device

    def _server_request(self, request: Request, path: str) -> Response | Awaitable[Response]:
        start = self._served.start
        if (path == "" and start.status_page) or (path == "/metrics" and start.metrics):
            page = self._metrics if path else self._status_page
            return page(request) if request.method in {"GET", "HEAD"} else _not_allowed("GET")
        table = self._routes.table()
        if path == "/v2/repository/index":
            if request.method not in {"GET", "POST"}:
                return _not_allowed("GET, POST")
            return json_response(200, describe.index(self._routes.table(fresh=True)))
        if path == "/v2/models/stats":
            return self._all_statistics(request) if request.method in {"GET", "HEAD"} else _not_allowed("GET")
        if _READ_ONLY.fullmatch(path):
            return error_response(
                403, "Models are loaded and unloaded by the device's desired document, not by callers."
            )
        if path not in {"/v2", "/v2/health/live", "/v2/health/ready"}:
            return error_response(404, f"there is nothing at {path[:200] or '/'}; the API begins at /v2")
        if request.method not in {"GET", "HEAD"}:
            return _not_allowed("GET")
        if path == "/v2":
            version = table.server_version or __version__
            return json_response(200, {"name": SERVER_NAME, "version": version, "extensions": EXTENSIONS})
        if path == "/v2/health/live":
            return json_response(200, {"live": True})
        waiting = [name for name, route in table.models.items() if not _is_ready(route.lanes.get("active"))]
        return json_response(503 if waiting else 200, {"ready": not waiting})

    def _status_page(self, _request: Request) -> Response:
        from edgefleet_agent.worker.http.status_page import status_page  # it costs nothing until somebody looks

        return status_page(self._served.start.routes_path, {"model_stats": [self._statistics()]})

    async def _metrics(self, request: Request) -> Response:
        """Return figures for Prometheus, of this worker and those of the other models; another worker asks for JSON."""
        from edgefleet_agent.worker.http import exposition  # it costs nothing until somebody scrapes

        rows = [exposition.answers_of(self._served, self._figures)]
        if request.header(FORWARDED_HEADER) is not None:
            return json_response(200, rows)
        for name, route in sorted(self._routes.table(fresh=True).models.items()):
            lane = route.lanes.get("active")
            if name != self._served.start.model and lane is not None and _is_ready(lane):
                answer = await self._forwarder.forward(Request("GET", "/metrics", request.headers, b""), lane.socket)
                if answer.status == 200:
                    rows += exposition.answers_in(answer.body)
        return exposition.exposition(self._served.start.routes_path, rows)

    async def _all_statistics(self, request: Request) -> Response:
        """Return the rows of every model; of another one its worker's own."""
        rows = [self._statistics()]
        for name, route in sorted(self._routes.table(fresh=True).models.items()):
            lane = route.lanes.get("active")
            if name != self._served.start.model and lane is not None and _is_ready(lane):
                asked = Request("GET", f"/v2/models/{quote(name, safe='')}/stats", request.headers, b"")
                answer = await self._forwarder.forward(asked, lane.socket)
                if answer.status == 200:
                    rows += msgspec.json.decode(answer.body)["model_stats"]
        return json_response(200, {"model_stats": sorted(rows, key=lambda row: str(row["name"]))})

    # ---- one model

    def _model_request(self, request: Request, path: str) -> Response | Awaitable[Response]:
        match = _MODEL_PATH.fullmatch(path)
        if match is None:
            return error_response(404, f"there is nothing at {path[:200]}")
        start = self._served.start
        model, version = unquote(match["model"]), match["version"] and unquote(match["version"])
        verb = match["verb"] or "metadata"
        if verb in _POSTED and request.method != "POST":
            return _not_allowed("POST")
        if verb not in _POSTED and request.method not in {"GET", "HEAD"}:
            return _not_allowed("GET")
        elsewhere = self._elsewhere(request, model, version, verb)
        if isinstance(elsewhere, Response):
            return elsewhere
        if elsewhere is not None and model == start.model and version is None:
            return self._forward_or_here(request, elsewhere, verb)
        if elsewhere is not None:
            self._figures.passed_on()
            socket = elsewhere.socket if _is_ready(elsewhere) else None
            look = self._look(model, version) if verb in {"infer", "predict"} else None
            return self._forwarder.forward(request, socket, look)
        return self._own(request, verb)

    def _own(self, request: Request, verb: str) -> Response | Awaitable[Response]:
        """Return this worker's own answer."""
        match verb:
            case "infer":
                return self._infer(request)
            case "predict":
                return self._queued(self._predict_job(request), self._call(request), self._deadline_s(request))
            case "flag":
                return self._flag(request)
            case "feedback":
                return self._feedback(request)
            case "ready":
                return json_response(200, {"name": self._served.start.model, "ready": True})
            case "stats":
                return json_response(200, {"model_stats": [self._statistics()]})
            case "config":
                return json_response(200, describe.config(self._served))
            case _:
                route = self._routes.table().models.get(self._served.start.model)
                return json_response(200, describe.metadata(self._served, route, self._own_parameters))

    def _elsewhere(self, request: Request, model: str, version: str | None, verb: str) -> LaneRoute | Response | None:
        """Return the lane that must answer, None when it is this worker, or an error."""
        start = self._served.start
        mine = model == start.model and version in {None, start.version}
        if mine and (version is not None or request.header(FORWARDED_HEADER) is not None or start.lane != "active"):
            return None
        route = self._routes.table().models.get(model) or self._routes.table(fresh=True).models.get(model)
        if mine:
            return candidate_for(route, request) if verb in {"infer", "predict"} else None
        if route is None or request.header(FORWARDED_HEADER) is not None:
            return error_response(404, f"there is no model {model[:80]} on this device")
        lane = route.lanes.get("active") if version is None else lane_of_version(route, version)
        if lane is None:
            return error_response(404, f"the model {model[:80]} has no version {(version or '')[:80]} on this device")
        if not _is_ready(lane) and verb not in {"infer", "predict"}:
            return error_response(503, f"the model {model[:80]} is not ready", headers=[(b"Retry-After", b"1")])
        return lane

    def _flag(self, request: Request) -> Response:
        """Keep the answer with this trace id, if it is remembered and something is captured at all."""
        trace_id = request.body.decode("ascii", "replace").strip()
        if not self._answer_log.flag(trace_id):
            return error_response(
                404, f"there is no answer {trace_id[:64]!r} to keep: only the last few are remembered"
            )
        return json_response(200, {"kept": trace_id})

    def _feedback(self, request: Request) -> Response:
        """Take labels of earlier answers and business figures; agentd pairs them (`feedback`)."""
        from edgefleet_agent.worker.http import (
            feedback_items as feedback,
        )  # it costs nothing until somebody has a label

        try:
            items = feedback.items_of(request.body)
        except wire.BadRequestError as error:
            return error_response(400, error.message)
        taken, refused = feedback.read_items(self._served, items)
        if not self._served.start.log_predictions and any(one.key for one in taken):
            return error_response(
                409, "this device keeps no log of its answers (prediction_log_bytes = 0): there is nothing to pair"
            )
        if not taken:
            return error_response(400, f"item {refused[0].place}: {refused[0].error}")
        n = self._answer_log.tell_labels(taken, feedback.unit_of(self._served))
        if not n:
            return error_response(503, feedback.BUSY, headers=[(b"Retry-After", b"1")])
        refused = feedback.with_untaken(len(items), refused, n)
        answer: dict[str, Any] = {"accepted": n}
        if refused:
            answer["refused"] = [{"index": one.place, "error": one.error} for one in refused]
        return json_response(200, answer)

    def _look(self, model: str, version: str | None) -> Callable[[], str | None]:
        """Return what tells where a model or version listens now, None while it is not ready."""

        def look() -> str | None:
            route = self._routes.table(fresh=True).models.get(model)
            if route is None:
                return None
            lane = route.lanes.get("active") if version is None else lane_of_version(route, version)
            return lane.socket if lane is not None and _is_ready(lane) else None

        return look

    async def _forward_or_here(self, request: Request, lane: LaneRoute, verb: str) -> Response:
        """Let the candidate answer; when it cannot be reached or is overrun, the active version does."""
        response = await self._forwarder.forward(request, lane.socket)
        if response.status != 503:
            self._figures.passed_on()
            return response
        answer = self._own(request, verb)
        return answer if isinstance(answer, Response) else await answer

    def _statistics(self) -> dict[str, Any]:
        totals = self._figures.totals()
        ago_s = time.monotonic() - totals.last_s if totals.last_s is not None else None
        unix_ms = 0 if ago_s is None else int((self._clock.now().timestamp() - ago_s) * 1e3)
        return describe.statistics(self._served, totals, unix_ms)

    # ---- inference

    def _infer(self, request: Request) -> Response | Awaitable[Response]:
        encoding = request.header(b"content-encoding")
        if encoding is not None and encoding != b"identity":
            return error_response(
                415, f"Bodies are not taken as {encoding[:20].decode('latin-1')}; send them as they are."
            )
        length = request.header(wire.BINARY_HEADER)
        if length is not None and not _is_size(length):
            return error_response(400, "Inference-Header-Content-Length must be a number of bytes.")
        header_length = int(length) if length is not None else None
        job = self._infer_job(request.body, header_length)
        call = self._call(request)
        turn = self._engine.turn
        is_now = self._engine.is_idle and self._inline.allows(len(request.body)) and turn.acquire(blocking=False)
        if not is_now:
            return self._queued(job, call, self._deadline_s(request))
        began, cpu = time.perf_counter(), time.thread_time()
        try:
            return job(call)
        except EdgefleetError as e:
            return self._failure(e)
        finally:
            turn.release()
            self._inline.took(time.perf_counter() - began, time.thread_time() - cpu)
            self._calls.mirror_after(call.answered)

    def _call(self, request: Request) -> Call:
        kept, caller = self._answer_log.kept, NOBODY
        if kept is not None and kept.is_on:
            key, subject = request.header(KEY_HEADER) or b"", request.header(SUBJECT_HEADER) or b""
            caller = Caller(
                key.decode("utf-8", "replace")[:MAX_CALLER], subject.decode("utf-8", "replace")[:MAX_CALLER]
            )
        return Call(self._answer_log.trace_of(request.header(TRACE_HEADER)), caller)

    def _deadline_s(self, request: Request) -> float:
        """Return how long this request may take: as this device allows, or less where its caller gives up sooner."""
        text = request.header(TIMEOUT_HEADER) or b""
        limit_s = self._served.start.run_timeout_s
        return min(limit_s, max(1, int(text)) / 1e3) if text.isdigit() and len(text) < 10 else limit_s

    async def _queued(self, job: Callable[[Call], Response], call: Call, deadline_s: float) -> Response:
        try:
            return await self._engine.submit(lambda: job(call), deadline_s)
        except EdgefleetError as e:
            if isinstance(e, DeadlineError):
                call.is_abandoned = True
                self._answer_log.failed("timeout", call.trace_id, call.caller)
            return self._failure(e)
        finally:
            self._calls.mirror_after(call.answered)

    def close(self) -> None:
        """Let go of what is open."""
        self._mirror.close()

    def _failure(self, error: EdgefleetError) -> Response:
        """Count what went wrong and return the answer that says it."""
        sentence = "; ".join(part for part in (error.message, error.next_step) if part)
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

    def _infer_job(self, body: bytes, header_length: int | None) -> Callable[[Call], Response]:
        def job(call: Call) -> Response:
            began = time.monotonic()
            request = self._codec.decode(body, header_length)
            decoded = time.monotonic()
            if request.timeout_s is not None and decoded - call.since_s > request.timeout_s:
                raise DeadlineError(f"the request waited longer than its timeout of {request.timeout_s:g} s")
            outputs, nonfinite = self._calls.run(call, request.inputs)
            ran = time.monotonic()
            answer, json_length = self._codec.encode(request, outputs, nonfinite)
            self._figures.spent(began - call.since_s, decoded - began, time.monotonic() - ran)
            headers = [(b"X-Edgefleet-Trace", call.trace_id.encode())]
            if json_length is None:
                return Response(200, answer, headers=headers)
            headers.append((b"Inference-Header-Content-Length", str(json_length).encode()))
            return Response(200, answer, b"application/octet-stream", headers)

        return job

    def _predict_job(self, request: Request) -> Callable[[Call], Response]:
        start = self._served.start
        content_type = (request.header(b"content-type") or b"").decode("latin-1")

        def job(call: Call) -> Response:
            began = time.monotonic()
            samples = predicting.decode_samples(self._served, content_type, request.body)
            self._figures.spent(began - call.since_s, time.monotonic() - began, 0.0)
            nonfinite = 0

            def run(inputs: dict[str, Array]) -> dict[str, Array]:
                nonlocal nonfinite
                outputs, count = self._calls.run(call, inputs)
                nonfinite += count
                return outputs

            answer = {
                "model_name": start.model,
                "model_version": start.version,
                "predictions": predicting.predict(self._served, samples, run),
                "parameters": {**self._parameters(nonfinite), "trace_id": call.trace_id},
            }
            trace = [(b"X-Edgefleet-Trace", call.trace_id.encode())]
            return Response(200, msgspec.json.encode(answer), headers=trace)

        return job

    def _parameters(self, nonfinite: int = 0) -> dict[str, Any]:
        return {**self._own_parameters, "nonfinite": nonfinite} if nonfinite else dict(self._own_parameters)


def _json_bytes(request: Request) -> int:
    """Return how long the JSON before the tensors is, 0 where the headers want more than an answer."""
    length = request.header(wire.BINARY_HEADER) or b""
    return int(length) if _is_simple(request) and _is_size(length) else 0


def _is_simple(request: Request) -> bool:
    found = (b"content-encoding", TRACE_HEADER, SUBJECT_HEADER)
    return all(request.header(name) is None for name in found)


def _is_size(text: bytes) -> bool:
    return text.isdigit() and len(text) < 12


def _hello(served: ServedModel) -> Hello:
    start, post = served.start, served.postprocess
    return Hello(start.digest, start.version, list(served.runtime.outputs), post.declared, list(post.labels))


def _is_ready(lane: LaneRoute | None) -> bool:
    return lane is not None and lane.state == "ready"


def _not_allowed(allowed: str) -> Response:
    return error_response(405, f"this address takes {allowed}", headers=[(b"Allow", allowed.encode())])
