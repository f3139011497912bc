"""What a worker keeps of its answers for the log that is sent: numbered before they are given, told in order, sealed."""

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from edgefleet_agent.worker.control.protocol import Logged, LogRequest, SetLog, Start, ToAgentd
from edgefleet_agent.worker.observe.kept_log import NOBODY, WAITING, Caller, Given, KeptLog
from edgefleet_protocol.hpke import about_log, new_key, unseal
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_protocol.prediction_parts import Answer, pseudonym
from edgefleet_runtime.postprocess import build_postprocessor
from edgefleet_runtime.preprocess import ArrayInput, Preprocess
from edgefleet_runtime.privacy import Bin, Privacy

PRIVATE, PUBLIC = new_key()
X = {"x": np.array([[1.2, 0.3]], np.float32)}
Y = {"y": np.array([[0.9, 0.1]], np.float32)}
SUBJECTS = b"k" * 32


def worker(
    folder: Path, key: bytes = b"", policy: Privacy | None = None, *, inputs: bool = False
) -> tuple[KeptLog, list[Logged]]:
    """Return the log of a made-up model, and what agentd hears of it."""
    heard: list[ToAgentd] = []
    served = SimpleNamespace(
        start=Start(model="digits", version="1", digest="d" * 64, lane="active", slot="A", bundle_fd=-1),
        privacy=policy or Privacy(),
        preprocess=Preprocess(inputs=[ArrayInput(name="x")]),
        postprocess=build_postprocessor(None, ("a", "b"), (TensorSpec(name="y", dtype="float32", shape=["n", 2]),)),
        runtime=SimpleNamespace(inputs=(TensorSpec(name="x", dtype="float32", shape=["n", 2]),)),
    )
    log = KeptLog(cast("Any", served), heard.append, lambda: 1_764_000_000_000)
    log.follow(SetLog({"digits": LogRequest(SUBJECTS, inputs=inputs)}, key, b"s" * 32, "d-1", str(folder)))
    return log, cast("list[Logged]", heard)


def answer(log: KeptLog, number: int, caller: Caller = NOBODY) -> None:
    """Note an answer."""
    given = Given(number, time.perf_counter(), f"t{number}", "ok", 0.0004, caller)
    log.answered(given, X if log.wants_inputs else None, Y, [0])


def said(body: bytes) -> Answer:
    """Return a clear answer."""
    return msgspec.msgpack.decode(body, type=Answer)


def test_answers_are_numbered_before_they_are_given_and_told_in_order(tmp_path: Path) -> None:
    log, heard = worker(tmp_path)
    numbers = [log.number() for _ in range(3)]
    assert (tmp_path / f"{os.getpid()}.count").read_bytes() == (3).to_bytes(8, "little"), "a kill leaves the count"
    for number in (numbers[2], numbers[0]):
        answer(log, number)
    log.tell()
    assert [(one.first, len(one.entries)) for one in heard] == [(1, 1)], "the second is still on its way"
    answer(log, numbers[1])
    log.tell()
    assert [(one.first, len(one.entries)) for one in heard] == [(1, 1), (2, 2)]
    log.number()
    answer(log, log.number())
    log.tell()
    log.tell()
    assert (heard[-1].first, len(heard)) == (5, 3), "what never came is not waited for a second time"
    answer(log, 4)
    log.tell()
    assert len(heard) == 3, "a number that was counted as lost is not told later"


def test_what_a_caller_says_of_itself_and_failures_are_kept(tmp_path: Path) -> None:
    log, heard = worker(tmp_path)
    answer(log, log.number(), Caller("order-1", "ann"))
    log.failed("timeout", "t9", Caller("", "bob"), 0.5)
    log.tell()
    one, two = heard[0].entries
    assert (one.subject, two.subject) == (pseudonym(SUBJECTS, "ann"), pseudonym(SUBJECTS, "bob"))
    scores = said(one.body).scores
    assert scores == pytest.approx([0.9, 0.1])
    assert said(one.body) == Answer(labels=["a", "b"], scores=scores, classes=[0], key="order-1")
    assert (two.status, two.latency_us, said(two.body)) == ("timeout", 500_000, Answer())


def test_a_body_opens_with_the_tenants_key_and_no_other_way(tmp_path: Path) -> None:
    policy = Privacy(fields={"x": [Bin(width=0.5)]}, subject="keep")
    log, heard = worker(tmp_path, PUBLIC, policy, inputs=True)
    answer(log, log.number(), Caller("", "ann"))
    log.tell()
    ((entry,),) = (one.entries for one in heard)
    assert b"ann" not in entry.body
    secret = unseal(PRIVATE, heard[0].key, about_log("d-1", "digits"))
    opened = said(ChaCha20Poly1305(secret).decrypt(entry.nonce.to_bytes(12, "big"), entry.body, None))
    assert opened.subject == "ann"
    assert np.frombuffer(opened.fields["x"]["data"], np.float32).tolist() == [1.0, 0.0]


def test_the_policy_decides_what_is_kept_of_an_answer(tmp_path: Path) -> None:
    log, heard = worker(tmp_path, policy=Privacy(outputs=False), inputs=True)
    assert not log.wants_inputs, "inputs are kept sealed or not at all"
    answer(log, log.number(), Caller("k", "ann"))
    log.tell()
    assert said(heard[0].entries[0].body) == Answer(key="k")


def test_an_answer_of_a_model_with_very_many_names_still_fits(tmp_path: Path) -> None:
    log, heard = worker(tmp_path, PUBLIC, inputs=True)
    names = [f"tensor-{i:04d}" for i in range(3_000)]
    served = cast("Any", log)._served
    served.runtime.inputs = [TensorSpec(name=name, dtype="float32", shape=[2]) for name in names]
    served.postprocess = SimpleNamespace(glance=lambda *_: [])
    values = dict.fromkeys(names, np.array([1.0, 0.5], np.float32))
    for n in (10, 3_000):
        given = Given(log.number(), time.perf_counter(), "t", "ok", 0.0, Caller("order-1"))
        log.answered(given, values, dict.fromkeys(names[:n], values[names[0]]), [3])
    log.tell()
    cipher = ChaCha20Poly1305(unseal(PRIVATE, heard[0].key, about_log("d-1", "digits")))
    one, two = (said(cipher.decrypt(e.nonce.to_bytes(12, "big"), e.body, None)) for e in heard[0].entries)
    assert (len(one.outputs), one.dropped) == (10, names[:64])
    assert two == Answer(classes=[3], key="order-1")


def test_switching_it_off_ends_it_and_numbers_go_on_when_it_is_on_again(tmp_path: Path) -> None:
    log, heard = worker(tmp_path)
    answer(log, log.number())
    log.follow(SetLog())
    assert (log.is_on, len(heard)) == (False, 1)
    log.follow(SetLog({"digits": LogRequest(SUBJECTS)}, b"", b"", "d-1", str(tmp_path)))
    answer(log, log.number())
    log.tell()
    assert [one.first for one in heard] == [1, 2]


def test_threads_take_each_number_once_and_memory_is_bounded(tmp_path: Path) -> None:
    log, heard = worker(tmp_path)

    def some() -> None:
        for _ in range(WAITING // 2):
            answer(log, log.number())

    threads = [threading.Thread(target=some) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.tell(is_last=True)
    told = [one.first + i for one in heard for i in range(len(one.entries))]
    assert told == sorted(set(told))
    assert WAITING - 3 <= len(told) <= WAITING + 3, "what has no place is lost, and its number missing"
