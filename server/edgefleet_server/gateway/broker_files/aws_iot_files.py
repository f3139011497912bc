"""AWS IoT Core: one policy for devices and one for servers, with policy variables. Written and linted, not run here.

The name of a device is the CN of its certificate, so the policies go by that. No thing is registered for it.
"""

from __future__ import annotations

import json
from typing import Any, Final

from edgefleet_protocol.topics import RETAINED_UP_LEAVES, ROOT, UP_LEAVES
from edgefleet_server.gateway.broker_files.model import BrokerFiles, BrokerSite

DEVICE_POLICY = "device-policy.json"
SERVER_POLICY = "server-policy.json"
CN: Final = "${iot:Certificate.Subject.CommonName}"
ARN: Final = "arn:aws:iot:REGION:ACCOUNT"
"""REGION and ACCOUNT are for the operator to replace."""

MAX_PAYLOAD_BYTES: Final = 128 * 1024
MAX_SLASHES: Final = 7
MAX_FILTERS_A_PACKET: Final = 8
MAX_KEEPALIVE_S: Final = 1_200
"""Limits of AWS IoT Core that no one can have raised (its page "message broker and protocol quotas")."""


def aws_iot_files(site: BrokerSite) -> BrokerFiles:
    """Return both policies."""
    documents = {DEVICE_POLICY: _policy(_device(site.tenant)), SERVER_POLICY: _policy(_server(site))}
    return BrokerFiles(
        {name: json.dumps(one, indent=2) + "\n" for name, one in documents.items()},
        next_steps=(
            "replace REGION and ACCOUNT, create both policies, and register the CA of trusted-cas.pem in the mode SNI_ONLY",
            "attach the policy of devices to every certificate that is registered, and that of servers to those of the server accounts",
            "devices must verify AWS's certificate: Amazon's root is for `--ca` of the check",
            "this was written and linted here, not run: run `edgectl server check broker URL` before devices use it",
        ),
    )


def _policy(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(action: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resources}


def _device(tenant: str) -> list[dict[str, Any]]:
    root = f"{ROOT}/{tenant}"
    own = f"{root}/d/{CN}"
    down = [f"{own}/dn/*", f"{root}/b/*", f"{root}/stage/*", f"{root}/repo/head", f"{root}/hold"]
    return [
        _allow(["iot:Connect"], [f"{ARN}:client/{CN}"]),
        _allow(["iot:Publish"], [f"{ARN}:topic/{own}/up/{leaf}" for leaf in UP_LEAVES]),
        _allow(["iot:RetainPublish"], [f"{ARN}:topic/{own}/up/{leaf}" for leaf in RETAINED_UP_LEAVES]),
        _allow(["iot:Subscribe"], [f"{ARN}:topicfilter/{one}" for one in down]),
        _allow(["iot:Receive"], [f"{ARN}:topic/{one}" for one in down]),
    ]


def _server(site: BrokerSite) -> list[dict[str, Any]]:
    every = f"{ROOT}/{site.tenant}/*"
    return [
        _allow(["iot:Connect"], [f"{ARN}:client/{name}" for name in site.servers]),
        _allow(["iot:Publish", "iot:RetainPublish", "iot:Receive"], [f"{ARN}:topic/{every}"]),
        _allow(["iot:Subscribe"], [f"{ARN}:topicfilter/{every}"]),
    ]
