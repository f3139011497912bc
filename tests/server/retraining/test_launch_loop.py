"""Retrainings whose training is started elsewhere: by the engine, at receivers that speak as the real ones do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefleet_server.retraining.lifecycle.engine import MAX_LAUNCHES
from tests.server.retraining.loop_fleet import API, LoopFleet
from tests.server.retraining.training_systems import Github
from tests.support.receivers import LOOPBACK, Receiver, receiving

TOKEN = "t0ken-that-nobody-may-read"  # made up


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[LoopFleet]:
    """A server that may call the loopback."""
    made = LoopFleet(tmp_path / "server", webhook_networks=LOOPBACK)
    yield made
    made.close()


def started(loop: LoopFleet, receiver: Receiver, **launcher: Any) -> dict[str, Any]:
    """Return a retraining whose trigger calls a workflow of GitHub there, after the engine looked."""
    settings = {"repository": "acme/digits", "workflow": "retrain.yml", "api": receiver.url.removesuffix("/hook")}
    loop.make(launcher={"kind": "github", "settings": settings, "secret": TOKEN, **launcher})
    assert loop.admin.post(f"{API}/triggers/digits-drift:start", json={"reason": "fog"}).status_code == 201
    loop.tick(seconds=1)
    return loop.run()


def test_a_workflow_is_started_and_its_release_ends_the_training(loop: LoopFleet) -> None:
    github = Github(TOKEN)
    with receiving(github) as receiver:
        run = started(loop, receiver)
    assert (run["state"], run["progress"]) == (
        "training", "started: 22000000001 https://github.com/acme/digits/actions/runs/22000000001",
    )  # fmt: skip
    assert [one["retraining"] for one in github.inputs] == [run["id"]]
    release = loop.publish("2.0.0", parent="digits@1.0.0", retraining=run["id"])
    assert loop.runner.post(f"{API}/retrainings/{run['id']}:complete", json={"release": release}).status_code == 200
    loop.tick(seconds=1)
    assert loop.run()["state"] == "published"


def test_a_refusal_ends_it_at_once_with_what_to_correct(loop: LoopFleet) -> None:
    with receiving(Github("another token")) as receiver:
        run = started(loop, receiver)
        loop.tick(minutes=30)
    assert (run["state"], len(receiver.got)) == ("failed", 1)
    error = run["error"]
    assert (error["code"], error["why"]) == ("retraining.launch_refused", "GitHub answered 401: Bad credentials")
    assert "Actions: write" in error["next_step"]
    everything = loop.admin.get(f"{API}/retrainings").text + loop.admin.get(f"{API}/triggers").text
    assert TOKEN not in everything + loop.admin.get(f"{API}/events").text + loop.admin.get(f"{API}/audit").text


def test_a_receiver_that_is_busy_is_called_again_when_it_says(loop: LoopFleet) -> None:
    answers: list[Any] = [(429, {"retry-after": "600"}, b""), (503, {}, b""), Github(TOKEN)]

    def answer(got: Any) -> Any:
        one = answers.pop(0)
        return one(got) if callable(one) else one

    with receiving(answer) as receiver:
        run = started(loop, receiver)
        assert run["state"] == "queued"
        assert "429; it is tried again" in run["says"]
        loop.tick(seconds=300)
        assert len(receiver.got) == 1, "it asked for 600 s"
        loop.tick(seconds=301)
        assert len(receiver.got) == 2
        loop.tick(seconds=10)
    assert loop.run()["state"] == "training"


def test_a_receiver_that_stays_away_is_given_up(loop: LoopFleet) -> None:
    with receiving(lambda _got: 500) as receiver:
        started(loop, receiver)
        for _ in range(MAX_LAUNCHES):
            loop.tick(minutes=5)
    assert (loop.run()["state"], len(receiver.got)) == ("failed", MAX_LAUNCHES)
    assert loop.run()["error"]["why"] == "GitHub answered 500, 5 times"


def test_a_launcher_that_cannot_be_is_refused_with_its_trigger(loop: LoopFleet) -> None:
    wrong: list[dict[str, Any]] = [
        {"kind": "github", "settings": {"repository": "digits"}, "secret": TOKEN}, {"kind": "mlflow", "settings": {"uri": "x"}},
        {"kind": "gitlab", "settings": {"project": "1"}}, {"kind": "webhook", "settings": {"url": "ftp://x"}, "secret": TOKEN},
    ]  # fmt: skip
    for launcher in wrong:
        answer = loop.admin.post(
            f"{API}/triggers", json={"name": "x", "model": "digits", "on": "hand", "launcher": launcher}
        )
        assert (answer.status_code, answer.json()["code"]) == (422, "launcher.bad_settings"), answer.text
        assert TOKEN not in answer.text
    loop.make(launcher={"kind": "webhook", "settings": {"url": "https://a.example/hook"}, "secret": TOKEN})
    moved = {"kind": "webhook", "settings": {"url": "https://b.example/hook"}}
    answer = loop.admin.patch(f"{API}/triggers/digits-drift", json={"launcher": moved})
    assert answer.json()["code"] == "launcher.bad_settings", "the secret was given for another receiver"


def test_a_launcher_is_moved_with_a_new_secret_and_a_retraining_under_way_never_gets_that_one(loop: LoopFleet) -> None:
    with receiving(Github(TOKEN)) as old, receiving(Github("another")) as new:
        settings = {"repository": "acme/digits", "workflow": "retrain.yml", "api": old.url.removesuffix("/hook")}
        loop.make(launcher={"kind": "github", "settings": settings, "secret": TOKEN})
        assert loop.admin.post(f"{API}/triggers/digits-drift:start", json={}).status_code == 201
        moved = {"kind": "github", "settings": settings | {"api": new.url.removesuffix("/hook")}, "secret": "another"}
        answer = loop.admin.patch(f"{API}/triggers/digits-drift", json={"launcher": moved})
        assert answer.status_code == 200, answer.text
        loop.tick(seconds=1)
        assert (old.got, new.got) == ([], []), "the plan names one receiver, the secret was given for another"
    run = loop.run()
    assert (run["state"], run["error"]["code"]) == ("failed", "retraining.launch_refused")
    assert loop.admin.patch(f"{API}/triggers/digits-drift", json={"launcher": {"kind": "runner"}}).status_code == 200
