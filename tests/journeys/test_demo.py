"""The demo end to end: real server, real broker, real agents; every figure is what `edgectl` says; nothing is left behind."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from edgefleet_cli.main import run
from tests.agent.field import eventually
from tests.converters.graphs import classifier

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_EDGECTL = [sys.executable, "-m", "edgefleet_cli.main"]
_PATIENCE_S = 300.0
DEVICES = 6
"""The smallest fleet with two profiles and three stages."""


def _environment(folder: Path, **more: str) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith(("EDGECTL_", "EDGEFLEET_"))}
    return {**own, "EDGECTL_CONFIG": str(folder / "none.json"), "TMPDIR": str(folder), **more}


def _processes_of(folder: Path) -> list[str]:
    """Return command lines of running processes that name a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def _started(folder: Path, devices: int, step: str) -> subprocess.Popen[str]:
    """Return a demo that has just told one of its steps."""
    process = subprocess.Popen(
        [*_EDGECTL, "demo", "--devices", str(devices)],
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(folder),
        cwd=folder,
    )
    assert process.stderr is not None
    while not process.stderr.readline().startswith(step):
        assert process.poll() is None
    return process


class RunningDemo:
    """A demo that has told its story and stays up."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "demo"
        self._environment = _environment(folder)
        self.process = subprocess.Popen(
            [*_EDGECTL, "demo", "--devices", str(DEVICES), "--data", str(self.data), "-o", "json"],
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr").open("wb"),
            text=True,
            env=self._environment,
        )
        assert self.process.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] != "}\n":
            line = self.process.stdout.readline()
            assert line, (folder / "stderr").read_text()
            lines.append(line)
        self.told: dict[str, Any] = json.loads("".join(lines))

    def edgectl(self, *arguments: str) -> Any:
        """Return what `edgectl … -o json` prints."""
        environment = {**self._environment, "EDGECTL_CONFIG": str(self.data / "edgectl.json")}
        out, err = io.StringIO(), io.StringIO()
        with patch.dict(os.environ, environment, clear=True), redirect_stdout(out), redirect_stderr(err):
            code = run([*arguments, "-o", "json"])
        assert code == 0, err.getvalue()
        return json.loads(out.getvalue())


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    running = RunningDemo(tmp_path_factory.mktemp("demo"))
    yield running
    if running.process.poll() is None:
        running.process.terminate()
        running.process.wait(timeout=60)


def test_the_story_is_told_in_full(demo: RunningDemo) -> None:
    told = demo.told
    keys = {"ok", "elapsed_s", "devices", "bundles", "refused", "rollouts", "accuracy_on_devices", "bad_release"}
    assert set(told) == keys
    assert told["ok"] is True
    assert len(told["devices"]) == DEVICES
    assert len({device["profile"] for device in told["devices"]}) == 2
    assert {device["release"] for device in told["devices"]} == {"digits@1.1.0"}
    assert {entry["version"] for entry in told["refused"]} == {"1.3.0", "1.4.0"}
    assert all(entry["reason"] for entry in told["refused"])


def test_the_good_release_was_promoted_in_three_stages(demo: RunningDemo) -> None:
    good, _ = demo.told["rollouts"]
    assert (good["release"], good["state"]) == ("digits@1.1.0", "finished")
    assert [(stage["name"], stage["state"], stage["verdict"]) for stage in good["stages"]] == [
        ("canary", "passed", "advance"),
        ("half", "passed", "advance"),
        ("rest", "passed", "advance"),
    ]
    assert all(stage["reason"] and stage["strength"] == "weak" for stage in good["stages"])
    exposed = [device for stage in good["stages"] for device in stage["devices"]]
    assert sorted(exposed) == sorted(device["id"] for device in demo.told["devices"])
    assert len(good["stages"][0]["devices"]) == 2


def test_the_bad_release_reached_the_canary_only(demo: RunningDemo) -> None:
    _, bad = demo.told["rollouts"]
    assert (bad["release"], bad["state"]) == ("digits@1.2.0", "rolled_back")
    assert [stage["state"] for stage in bad["stages"]] == ["failed", "pending", "pending"]
    assert 1 <= len(bad["stages"][0]["devices"]) <= 2
    told = demo.told["bad_release"]
    assert set(told) == {"version", "exposed", "rolled_back_s", "reason"}
    assert (told["version"], told["exposed"]) == ("1.2.0", len(bad["stages"][0]["devices"]))
    assert "nonfinite" in told["reason"]
    assert told["reason"] == bad["stages"][0]["reason"]


def test_rollouts_are_what_edgectl_says(demo: RunningDemo) -> None:
    listed = demo.edgectl("rollout", "list")["items"]
    assert [entry["id"] for entry in listed] == [entry["id"] for entry in reversed(demo.told["rollouts"])]
    for told, entry in zip(reversed(demo.told["rollouts"]), listed, strict=True):
        shown = demo.edgectl("rollout", "show", told["id"])
        assert told == {
            **{key: shown[key] for key in ("id", "release", "state")},
            "stages": [
                {key: stage[key] for key in ("name", "state", "verdict", "reason", "strength", "devices")}
                for stage in shown["stages"]
            ],
        }
        assert {key: entry[key] for key in ("release", "state")} == {key: told[key] for key in ("release", "state")}


def test_devices_of_the_bad_rollout_are_what_edgectl_says(demo: RunningDemo) -> None:
    told = demo.told["bad_release"]
    id_ = demo.told["rollouts"][1]["id"]
    devices = demo.edgectl("rollout", "devices", id_)["items"]
    assert len([device for device in devices if device["exposed_at"]]) == told["exposed"]
    assert all(device["running"] == "digits@1.1.0" for device in devices)
    failed = [device for device in devices if device["error_class"] == "nonfinite"]
    assert failed
    assert all(device["state"] == "rolled_back" and "not finite" in device["reason"] for device in failed)
    shown = demo.edgectl("rollout", "show", id_)
    began, ended = (datetime.fromisoformat(shown[key]) for key in ("started_at", "finished_at"))
    assert told["rolled_back_s"] == round((ended - began).total_seconds(), 1)
    decisions = demo.edgectl("rollout", "explain", id_)["items"]
    assert [entry["verdict"] for entry in decisions].count("roll_back") >= 1
    assert all(entry["agrees"] for entry in decisions)


def test_int8_is_small_and_as_good(demo: RunningDemo) -> None:
    small = [bundle for bundle in demo.told["bundles"] if bundle["precision"] == "int8"]
    assert small
    assert all(bundle["bytes"] <= 0.35 * bundle["fp32_bytes"] for bundle in small)


def test_accuracy_on_devices_is_the_converters(demo: RunningDemo) -> None:
    built = {(bundle["version"], bundle["profile"]): bundle["accuracy"] for bundle in demo.told["bundles"]}
    measured = demo.told["accuracy_on_devices"]
    assert set(measured) == {"1.0.0", "1.1.0"}, "nobody waits for a measurement of the release that was caught"
    for version, by_profile in measured.items():
        assert set(by_profile) == {device["profile"] for device in demo.told["devices"]}
        assert all(abs(share - built[version, profile]) <= 0.005 for profile, share in by_profile.items())
    newer, older = measured["1.1.0"], measured["1.0.0"]
    assert all(newer[profile] > older[profile] for profile in newer)


def test_devices_are_what_edgectl_says(demo: RunningDemo) -> None:
    listed = {device["id"]: device for device in demo.edgectl("device", "list")["items"]}
    assert set(listed) == {device["id"] for device in demo.told["devices"]}
    for device in demo.told["devices"]:
        (model,) = listed[device["id"]]["models"]
        assert listed[device["id"]]["profile"] == device["profile"]
        assert listed[device["id"]]["status"] == "online"
        assert (model["release"], model["phase"]) == (device["release"], device["state"])


def test_bundles_and_refusals_are_what_edgectl_says(demo: RunningDemo) -> None:
    releases = {
        version: demo.edgectl("release", "show", f"digits@{version}")
        for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0")
    }
    bundles = [
        {
            **{
                key: bundle[key]
                for key in ("model", "version", "profile", "runtime", "precision", "bytes", "fp32_bytes", "parity")
            },
            "accuracy": bundle["metric"]["value"],
        }
        for release in releases.values()
        for bundle in release["bundles"]
    ]
    assert demo.told["bundles"] == bundles
    refused = [
        {"version": version, "profile": entry["profile"], "reason": entry["reason"]}
        for version, release in releases.items()
        for entry in release["refused"]
    ]
    assert demo.told["refused"] == refused


def test_demo_json_is_private_and_its_addresses_answer(demo: RunningDemo) -> None:
    import httpx

    path = demo.data / "demo.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document = json.loads(path.read_text())
    assert set(document) == {"url", "token", "ca_file", "devices"}
    assert Path(document["ca_file"]).read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert httpx.get(f"{document['url']}/readyz").status_code == 200
    for device in document["devices"]:
        assert httpx.get(f"{device['infer_url']}/v2/health/ready").status_code == 200
        with httpx.Client(transport=httpx.HTTPTransport(uds=device["infer_socket"]), base_url="http://device") as http:
            assert http.get("/v2/models/digits/ready").status_code == 200
        assert Path(device["state_dir"]).is_dir()
    secret = document["token"].split("_", 2)[2]
    assert [log.name for log in (demo.data / "logs").iterdir() if secret in log.read_text()] == []


def test_deploying_back_by_hand_works_and_waits(demo: RunningDemo) -> None:
    device = demo.told["devices"][0]["id"]
    for ref in ("digits@1.0.0", "digits@1.1.0"):
        answer = demo.edgectl("deploy", ref, "--device", device, "--wait", "--timeout", "120s")
        assert [(entry["device"], entry["state"]) for entry in answer["devices"]] == [(device, "committed")]


def test_publishing_with_to_brings_a_second_model_to_a_device(demo: RunningDemo, tmp_path: Path) -> None:
    device = demo.told["devices"][1]
    model = tmp_path / "second.onnx"
    model.write_bytes(classifier(features=16).SerializeToString())
    named = ("--name", "second", "--version", "1", "--precision", "fp32")
    release = demo.edgectl("publish", str(model), *named, "--to", f"id={device['id']}")
    assert release["state"] == "ready"
    assert {bundle["profile"] for bundle in release["bundles"]} == {entry["profile"] for entry in demo.told["devices"]}

    def runs_both() -> bool:
        models = demo.edgectl("device", "show", device["id"])["models"]
        return {(model["release"], model["phase"]) for model in models} == {
            ("digits@1.1.0", "committed"),
            ("second@1", "committed"),
        }

    assert eventually(runs_both, _PATIENCE_S, 0.5), "the second model is not there"
    assert [entry["device"] for entry in demo.edgectl("release", "devices", "second@1")["items"]] == [device["id"]]


def test_a_stop_signal_ends_everything(demo: RunningDemo) -> None:
    demo.process.terminate()
    assert demo.process.wait(timeout=60) == 0
    assert eventually(lambda: not _processes_of(demo.data), _PATIENCE_S), "processes are left"
    assert {entry.name for entry in demo.data.iterdir()} == {"server", "devices", "logs", "edgectl.json"}


def test_once_on_one_device_with_the_embedded_broker_exits_0_and_leaves_no_file(tmp_path: Path) -> None:
    command = [*_EDGECTL, "demo", "--devices", "1", "--once", "--broker", "embedded", "-o", "json"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
        env=_environment(tmp_path),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] is True
    assert [device["release"] for device in told["devices"]] == ["digits@1.1.0"]
    assert [[stage["name"] for stage in rollout["stages"]] for rollout in told["rollouts"]] == [["all"], ["all"]]
    assert told["bad_release"]["exposed"] == 1
    of_the_device = {told["devices"][0]["profile"]}
    assert {entry["profile"] for entry in [*told["bundles"], *told["refused"]]} == of_the_device, (
        "no device has another"
    )
    assert "canary" not in done.stderr.replace("with one device there is no canary", "")
    lines = done.stderr.splitlines()
    assert [line[:3] for line in lines if line[1:3] == "/6"] == ["1/6", "2/6", "3/6", "4/6", "5/6", "6/6"]
    assert max(map(len, lines)) <= 100
    assert list(tmp_path.iterdir()) == []
    assert not _processes_of(tmp_path)


def test_ctrl_c_in_the_middle_exits_130_and_leaves_nothing(tmp_path: Path) -> None:
    process = _started(tmp_path, 1, "1/6")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not _processes_of(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_step_says_why_cleans_up_and_keeps_the_logs(tmp_path: Path) -> None:
    examples = tmp_path / "digits"
    shutil.copytree(Path(__file__).resolve().parents[2] / "examples" / "digits", examples)
    (examples / "digits-1.0.0.onnx").write_bytes(b"no model at all")
    folder = tmp_path / "work"
    folder.mkdir()
    done = subprocess.run(
        [*_EDGECTL, "demo", "--devices", "1", "--once", "--examples", str(examples)],
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
        env=_environment(folder),
        cwd=folder,
    )
    assert done.returncode == 1, done.stderr
    assert "error: digits@1.0.0 was not built for every profile" in done.stderr
    (kept,) = folder.iterdir()
    assert f"logs are kept in {kept / 'logs'}" in done.stderr
    assert (kept / "logs" / "server.log").is_file()
    assert eventually(lambda: not _processes_of(folder), _PATIENCE_S), "processes are left"


def test_killing_the_demo_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    process = _started(tmp_path, 1, "2/6")
    assert _processes_of(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    assert process.stderr is not None
    process.stderr.close()
    assert eventually(lambda: not _processes_of(tmp_path), _PATIENCE_S), "processes are left"
    assert eventually(lambda: not list(tmp_path.iterdir()), _PATIENCE_S), "files are left"
