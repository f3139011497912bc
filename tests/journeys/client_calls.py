"""What kserve's and NVIDIA's own HTTP clients get from an agent, as JSON; `./dev soak clients` runs it in an environment that has them.

Arguments: the address of the local inference API, and how often each request for an answer is made. The model is `digits` of
`tests/agent/worker/models.py`: x [n, 4] float32 → y [n, 3].
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from typing import Any

import httpx
import numpy as np
import tritonclient.http as triton
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

X = np.array([[9, 0, 0, 0], [0, 0, 9, 0]], np.float32)
CLASSES = [0, 2]
FORMS = {"json": (False, False), "binary in": (True, False), "binary out": (False, True), "binary": (True, True)}
"""Whether inputs and outputs are binary tensors."""


async def by_kserve(url: str, count: int) -> dict[str, Any]:
    """Ask all that kserve's REST client can ask in version 2 of the protocol, and return what came."""
    found: dict[str, Any] = {"version": version("kserve")}
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        found["live"] = await client.is_server_live(url)
        found["ready"] = await client.is_server_ready(url)
        found["model ready"] = await client.is_model_ready(url, "digits")
        found["unknown model ready"] = await client.is_model_ready(url, "ghost")
        for name, (binary_in, binary_out) in FORMS.items():
            right = 0
            for number in range(count):
                tensor = InferInput("x", list(X.shape), "FP32")
                tensor.set_data_from_numpy(X, binary_data=binary_in)
                parameters = {"binary_data_output": binary_out}
                asked = InferRequest("digits", [tensor], request_id=f"r{number}", parameters=parameters)
                answer = await client.infer(url, asked, model_name="digits")
                classes = answer.outputs[0].as_numpy().argmax(1).tolist()
                right += (answer.model_name, answer.id, classes) == ("digits", f"r{number}", CLASSES)
            found[name] = right
        try:
            await client.infer(url, {"inputs": []}, model_name="digits")
        except httpx.HTTPStatusError as error:
            found["refusal"] = str(error)
    # this client has no call for it
    found["metadata"] = httpx.get(f"{url}/v2/models/digits").json()
    return found


def by_triton(url: str, count: int) -> dict[str, Any]:
    """Ask the same by NVIDIA's client."""
    found: dict[str, Any] = {"version": version("tritonclient")}
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    found["live"], found["ready"] = client.is_server_live(), client.is_server_ready()
    found["model ready"], found["unknown model ready"] = client.is_model_ready("digits"), client.is_model_ready("ghost")
    for name, (binary_in, binary_out) in FORMS.items():
        tensor = triton.InferInput("x", list(X.shape), "FP32")
        tensor.set_data_from_numpy(X, binary_data=binary_in)
        output = triton.InferRequestedOutput("y", binary_data=binary_out)
        answers = [client.infer("digits", [tensor], outputs=[output]).as_numpy("y") for _ in range(count)]
        found[name] = sum(answer.argmax(1).tolist() == CLASSES for answer in answers)
    try:
        client.infer("digits", [])
    except triton.InferenceServerException as error:
        found["refusal"] = str(error)
    found["metadata"] = client.get_model_metadata("digits")
    client.close()
    return found


if __name__ == "__main__":
    given = sys.argv[1], int(sys.argv[2])
    print(json.dumps({"kserve": asyncio.run(by_kserve(*given)), "tritonclient": by_triton(*given)}))
