"""Files for brokers that do not run here, and RabbitMQ's questions: parsed, and each says of every topic what `topics.may` says."""

from __future__ import annotations

import itertools
import json
import re
from fnmatch import fnmatchcase
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from paho.mqtt.client import topic_matches_sub
from pyhocon import ConfigFactory
from starlette.testclient import TestClient

from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.topics import DN_LEAVES, UP_LEAVES, Topics, may
from edgefleet_server.gateway.broker.model import MAX_KEEPALIVE_S, MAX_PACKET_BYTES
from edgefleet_server.gateway.broker_contract.capacity_checks import BLOCK_BYTES
from edgefleet_server.gateway.broker_files import aws_iot_files as aws
from edgefleet_server.gateway.broker_files.access_rules import is_allowed
from edgefleet_server.gateway.broker_files.emqx_files import emqx_files
from edgefleet_server.gateway.broker_files.hivemq_files import hivemq_files
from edgefleet_server.gateway.broker_files.model import BrokerSite
from edgefleet_server.gateway.payload_check import MAX_EVENT_BYTES
from edgefleet_server.process.external_broker.access_service import application

SITE = BrokerSite("acme", ("srv-main", "srv-check-a"), "/etc/broker", 8883)
OURS, THEIRS = Topics(TenantId("acme")), Topics(TenantId("other"))
ONE, TWO = DeviceId("d-1"), DeviceId("d-11")
USERS = ("srv-main", str(ONE), str(TWO))


def _topics() -> list[str]:
    found = [
        f"{of.prefix}/d/{device}/{way}/{leaf}"
        for of, device in itertools.product((OURS, THEIRS), (ONE, TWO))
        for way, leaves in (("up", UP_LEAVES), ("dn", DN_LEAVES))
        for leaf in leaves
    ]
    for of in (OURS, THEIRS):
        found += [of.repo_head(), of.hold(), f"{of.prefix}/b/0a", f"{of.prefix}/stage/r-1"]
        found += [f"{of.prefix}/repo/other", f"{of.prefix}/b/x/y", f"{of.prefix}/d/{ONE}", f"{of.prefix}/other"]
    return found


CASES = [(user, topic, publish) for user in USERS for topic in _topics() for publish in (True, False)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pyhocon, by names that pyparsing is to drop
def test_emqx_reads_the_configuration_and_its_rules_say_the_same() -> None:
    texts = emqx_files(SITE).texts
    config = ConfigFactory.parse_string(texts["emqx.conf"])
    listener = config["listeners"]["ssl"]["default"]
    assert listener["bind"] == "0.0.0.0:8883"
    assert listener["ssl_options"]["verify"] == "verify_peer"
    assert listener["ssl_options"]["fail_if_no_peer_cert"] is True
    assert not any(config["listeners"][one]["default"]["enable"] for one in ("tcp", "ws", "wss"))
    assert config["mqtt"]["peer_cert_as_clientid"] == config["mqtt"]["peer_cert_as_username"] == "cn"
    assert config["authorization"]["no_match"] == "deny"
    assert config["authorization"]["sources"][0]["path"] == "/etc/broker/acl.conf"
    rules = [_emqx_rule(line) for line in texts["acl.conf"].splitlines()]
    assert rules[-1] == ("deny", "", "all", ["#"])
    for user, topic, publish in CASES:
        assert _emqx_lets(rules, user, topic, publish=publish) == may("acme", user, topic, publish), (user, topic)


def _emqx_rule(line: str) -> tuple[str, str, str, list[str]]:
    if line == "{deny, all}.":
        return "deny", "", "all", ["#"]
    found = re.fullmatch(r'\{allow, (all|\{username, \{re, "([^"]+)"\}\}), (all|publish|subscribe), \[(.+)\]\}\.', line)
    assert found, line
    return "allow", found[2] or "", found[3], re.findall(r'"([^"]+)"', found[4])


def _emqx_lets(rules: list[tuple[str, str, str, list[str]]], user: str, topic: str, *, publish: bool) -> bool:
    for verdict, name, action, topics in rules:
        is_for = not name or re.search(name, user) is not None
        is_action = action in ("all", "publish" if publish else "subscribe")
        if is_for and is_action and any(topic_matches_sub(one.replace("${clientid}", user), topic) for one in topics):
            return verdict == "allow"
    return False


def test_hivemq_reads_the_configuration() -> None:
    root = ET.fromstring(hivemq_files(SITE).texts["config.xml"])
    listener = root.find("listeners/tls-tcp-listener")
    assert listener is not None
    assert listener.findtext("port") == "8883"
    assert listener.findtext("tls/client-authentication-mode") == "REQUIRED"
    assert [one.tag for one in root.findall("listeners/*")] == ["tls-tcp-listener"], "no way in without a certificate"
    assert root.findtext("mqtt/packets/max-packet-size") == str(MAX_PACKET_BYTES)
    assert root.findtext("mqtt/keep-alive/max-keep-alive") == str(MAX_KEEPALIVE_S)


ACTIONS = {"iot:Connect", "iot:Publish", "iot:RetainPublish", "iot:Subscribe", "iot:Receive"}
RESOURCE = re.compile(r"arn:aws:iot:REGION:ACCOUNT:(client|topic|topicfilter)/(.+)")


def _statements(name: str) -> list[dict[str, Any]]:
    policy = json.loads(aws.aws_iot_files(SITE).texts[name])
    assert policy["Version"] == "2012-10-17"
    return list(policy["Statement"])


def _aws_lets(statements: list[dict[str, Any]], user: str, action: str, topic: str) -> bool:
    for one in statements:
        for resource in one["Resource"] if action in one["Action"] else ():
            found = RESOURCE.fullmatch(resource)
            assert found
            if fnmatchcase(topic, found[2].replace(aws.CN, user)):
                return True
    return False


def test_the_policies_of_aws_iot_are_well_formed_and_say_the_same() -> None:
    device, server = _statements(aws.DEVICE_POLICY), _statements(aws.SERVER_POLICY)
    for one in (*device, *server):
        assert one["Effect"] == "Allow"
        assert set(one["Action"]) <= ACTIONS
        kinds = {match[1] for resource in one["Resource"] if (match := RESOURCE.fullmatch(resource))}
        wanted = {"iot:Connect": "client", "iot:Subscribe": "topicfilter"}.get(one["Action"][0], "topic")
        assert kinds == {wanted}
        assert {name for text in one["Resource"] for name in re.findall(r"\$\{([^}]+)\}", text)} <= {aws.CN[2:-1]}
    for user, topic, publish in CASES:
        if topic.endswith("/b/x/y"):
            continue  # `*` of a policy also stands for `/`; only a server publishes there
        policy = server if user.startswith("srv-") else device
        action = "iot:Publish" if publish else "iot:Receive"
        assert _aws_lets(policy, user, action, topic) == may("acme", user, topic, publish), (user, topic, publish)
    assert _aws_lets(device, ONE, "iot:Connect", ONE)
    assert not _aws_lets(device, ONE, "iot:Connect", TWO)
    assert _aws_lets(device, ONE, "iot:RetainPublish", OURS.state(ONE))
    assert not _aws_lets(device, ONE, "iot:RetainPublish", OURS.event(ONE))


def test_what_fits_the_limits_of_aws_iot() -> None:
    filters = [name for name, _ in (*OURS.device_subscriptions(ONE), *OURS.server_filters())]
    assert max(topic.count("/") for topic in (*_topics(), *filters)) <= aws.MAX_SLASHES
    assert len(OURS.device_subscriptions(ONE)) <= aws.MAX_FILTERS_A_PACKET
    assert len(OURS.server_filters()) <= aws.MAX_FILTERS_A_PACKET
    assert MAX_EVENT_BYTES <= aws.MAX_PAYLOAD_BYTES
    # and what does not: blocks come over HTTPS there, and a metered device must say keepalive 1,200 s or less (docs/operate/brokers.md)
    assert BLOCK_BYTES > aws.MAX_PAYLOAD_BYTES
    assert MAX_KEEPALIVE_S > aws.MAX_KEEPALIVE_S


def _asked(question: str, user: str, **fields: str) -> bool:
    return is_allowed("acme", question, {"username": user, **fields})


def test_rabbitmq_is_told_what_the_rule_says() -> None:
    for user, topic, publish in CASES:
        key = topic.replace("/", ".")
        fields = {"name": "amq.topic", "permission": "write" if publish else "read", "routing_key": key}
        assert _asked("topic", user, **fields) == may("acme", user, topic, publish), (user, topic, publish)
    assert _asked("user", "d-1", client_id="d-1")
    assert not _asked("user", "d-1", client_id="d-11")
    assert not _asked("user", "d-1"), "a connection that is not MQTT"
    assert not _asked("user", "guest", client_id="other")
    assert _asked("vhost", "d-1", vhost="/")
    assert not _asked("vhost", "d-1", vhost="other")
    for permission in ("configure", "write", "read"):
        queue = {"resource": "queue", "permission": permission}
        assert _asked("resource", "d-1", name="mqtt-subscription-d-1qos1", **queue)
        assert not _asked("resource", "d-1", name="mqtt-subscription-d-11qos1", **queue)
    exchange = {"resource": "exchange", "name": "amq.topic"}
    assert _asked("resource", "d-1", permission="write", **exchange)
    assert not _asked("resource", "d-1", permission="configure", **exchange)
    assert not _asked("anything", "d-1")
    assert not _asked("topic", "d-1", name="other", permission="read", routing_key="ef.1.acme.hold")


@pytest.mark.parametrize(("client", "answer"), [("d-1", "allow"), ("d-2", "deny")])
def test_rabbitmq_is_answered_over_http(client: str, answer: str) -> None:
    with TestClient(application("acme")) as http:
        got = http.post("/user", data={"username": "d-1", "client_id": client, "vhost": "/"})
    assert (got.status_code, got.text) == (200, answer)
