"""The work of an inference worker in uvicorn with starlette and httptools, for `bench inference` to compare with."""

import asyncio
import socket
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgefleet_agent.worker.http import wire
from edgefleet_runtime.port import load


def main() -> None:
    """Serve until terminated."""
    fd, name, path = sys.argv[1:]
    model = load("ort", Path(path).read_bytes())
    outputs = [spec.name for spec in model.outputs]

    async def infer(request: Request) -> Response:
        body = await request.body()
        length = request.headers.get("inference-header-content-length")
        asked = wire.decode_request(body, int(length) if length else None, model.inputs, outputs)
        answer, header = wire.encode_response(
            {"model_name": name, "model_version": "1"}, model.run(asked.inputs), asked
        )
        headers = {"inference-header-content-length": str(header)} if header is not None else {}
        return Response(answer, media_type="application/octet-stream", headers=headers)

    app = Starlette(routes=[Route("/v2/models/{model}/infer", infer, methods=["POST"])])
    config = uvicorn.Config(app, http="httptools", loop="auto", access_log=False, log_level="warning", lifespan="off")
    with socket.socket(fileno=int(fd)) as listener:
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main()
