"""Errors that need no server: four lines on stderr, nothing on stdout, the right exit code."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgefleet_cli.core.session import Session
from edgefleet_cli.rollout.spec import ALL, STRATEGIES
from edgefleet_server.rollout.spec.strategies import STRATEGIES as SERVERS_STRATEGIES
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_no_server_is_set(edgectl: Edgectl) -> None:
    ran = edgectl("device", "list", "-o", "json")
    assert (ran.code, ran.out) == (2, "")
    assert "edgectl login" in ran.told()[2]


def test_not_logged_in(edgectl: Edgectl) -> None:
    ran = edgectl("device", "list", "--server", "http://127.0.0.1:1")
    assert (ran.code, ran.out) == (4, "")
    assert "edgectl login http://127.0.0.1:1" in ran.told()[2]


def test_a_refusal_of_another_package_is_told_with_its_kind_and_on_a_line_of_its_own_its_code(
    edgectl: Edgectl, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"none")
    ran = edgectl("convert", tmp_path / "model.onnx", "--name", "No Name")
    assert ran.told()[1] == "a name, version or id does not match its grammar"
    assert ran.error_code == "id.bad"


def test_what_is_no_text_is_refused_without_showing_the_rest_of_it(
    edgectl: Edgectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECTL_SERVER", "http://127.0.0.1:1")
    monkeypatch.setenv("EDGECTL_TOKEN", "x")
    named = edgectl("model", "show", "a\udcff")
    assert (named.code, named.error_code) == (2, "cli.usage")
    for token in ("secret\udcff", "secret\u2603"):
        ran = edgectl("whoami", "--token", token)
        assert (ran.code, ran.error_code) == (2, "cli.usage")
        assert "secret" not in ran.err


def test_the_server_is_unreachable(edgectl: Edgectl) -> None:
    server = f"http://127.0.0.1:{_closed_port()}"
    ran = edgectl("device", "list", "--server", server, "--token", "x")
    assert (ran.code, ran.out) == (1, "")
    what, why, next_step = ran.told()
    assert what == f"cannot reach the server at {server}"
    assert "refused" in why
    assert "edgectl server start" in next_step


def test_something_else_answers_at_the_address(edgectl: Edgectl) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello")

        thread = threading.Thread(target=answer)
        thread.start()
        ran = edgectl("whoami", "--server", f"http://127.0.0.1:{listener.getsockname()[1]}", "--token", "x")
        thread.join()
    assert ran.code == 1
    assert "not an edgefleet server" in ran.told()[1]


def test_reading_is_tried_again_when_the_connection_is_cut(edgectl: Edgectl) -> None:
    body = b'{"id": "t", "name": "me", "roles": ["viewer"], "tenant": "default"}'
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for reply in (b"", b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        server = f"http://127.0.0.1:{listener.getsockname()[1]}"
        ran = edgectl("whoami", "--server", server, "--token", "x", "-o", "json")
        thread.join()
    assert ran.code == 0, ran.err
    assert ran.json["name"] == "me"


def test_a_silent_server_is_given_up_after_the_timeout(edgectl: Edgectl) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = f"http://127.0.0.1:{listener.getsockname()[1]}"
        ran = edgectl("whoami", "--server", server, "--token", "x", "--timeout", "300ms")
    assert ran.code == 1
    assert "took longer than 0.3 s" in ran.told()[1]


@pytest.mark.parametrize("arguments", [["nope"], ["device", "nope"], ["device", "list", "--nope"], ["publish"]])
def test_wrong_usage(edgectl: Edgectl, arguments: list[str]) -> None:
    ran = edgectl(*arguments)
    assert (ran.code, ran.out) == (2, "")
    what, why, next_step = ran.told()
    assert what[0].islower()
    assert "Usage:" not in why, "a usage line is no cause"
    assert "--help" in next_step
    assert ran.error_code == "cli.usage"


_IDENTITY = ("--name", "digits", "--version", "1", "--server", "http://127.0.0.1:1", "--token", "x")


@pytest.mark.parametrize(
    ("file", "wanted"),
    [("m.pt", "PyTorch"), ("m.h5", "Keras"), ("m.safetensors", "safetensors"), ("m.gguf", "GGUF")],
)
def test_files_that_are_no_whole_model_say_what_to_publish_instead(
    edgectl: Edgectl, tmp_path: Path, file: str, wanted: str
) -> None:
    (tmp_path / file).write_bytes(b"x")
    ran = edgectl("publish", tmp_path / file, *_IDENTITY)
    assert ran.code == 2
    what, _why, next_step = ran.told()
    assert wanted in what
    assert "ONNX" in next_step


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [(["--shape", "x"], "NAME=VALUE"), (["--shape", "x=1,0"], "shape of x"), (["--shape", "x=1,,3"], "shape of x"),
     (["--shape", "x=" + "9" * 40], "shape of x"), (["--set", "sr=fast"], "value for sr"), (["--set", "sr=nan"], "value for sr")],
)  # fmt: skip
def test_a_shape_or_value_that_cannot_be_read(edgectl: Edgectl, tmp_path: Path, flags: list[str], wanted: str) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    ran = edgectl("convert", tmp_path / "m.onnx", "--name", "x", "--version", "1", "--out", tmp_path / "out", *flags)
    assert ran.code == 2
    assert wanted in ran.told()[0]


@pytest.mark.parametrize(
    ("model", "wanted"),
    [("absent.onnx", "there is no file"), ("notes.txt", "not a model file"), ("empty", "is empty")],
)
def test_a_model_that_cannot_be_read(edgectl: Edgectl, tmp_path: Path, model: str, wanted: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    ran = edgectl("publish", tmp_path / model, *_IDENTITY)
    assert ran.code == 2
    assert wanted in ran.told()[0]


@pytest.mark.parametrize(
    "flags",
    [["--name", "Digits"], ["--name", "root"], ["--version", "1/0"], ["--profile", "No Such"], ["--max-drop", "2"]],
)
def test_names_are_checked_before_anything_is_sent(edgectl: Edgectl, tmp_path: Path, flags: list[str]) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    ran = edgectl("publish", tmp_path / "m.onnx", *_IDENTITY, *flags)
    assert ran.code == 2
    assert ran.told()[0]


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot read"), ("a: [", "not YAML"), ("- x", "no mapping"), ("nonsense: 1", "nonsense")],
)
def test_a_profile_file_is_checked_before_anything_is_sent(
    edgectl: Edgectl, tmp_path: Path, content: str | None, told: str
) -> None:
    model, profile = tmp_path / "m.onnx", tmp_path / "board.yaml"
    model.write_bytes(b"x")
    if content is not None:
        profile.write_text(content)
    server = f"http://127.0.0.1:{_closed_port()}"
    flags = ("--name", "m", "--version", "1", "--profile", profile, "--server", server, "--token", "x")
    ran = edgectl("publish", model, *flags)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.told()[0]


def test_publish_names_a_model_after_its_file_and_says_so(edgectl: Edgectl, tmp_path: Path) -> None:
    server = ("--server", f"http://127.0.0.1:{_closed_port()}", "--token", "x")
    missing = edgectl("publish", tmp_path / "Digits-1.1.0.onnx", *server)
    assert missing.told()[0] == f"there is no file or folder {tmp_path / 'Digits-1.1.0.onnx'}", "before any name"
    (tmp_path / "Digits-1.1.0.onnx").write_bytes(b"x")
    (tmp_path / "root.onnx").write_bytes(b"x")
    ran = edgectl("publish", tmp_path / "Digits-1.1.0.onnx", *server)
    assert ran.err.splitlines()[0] == "publishing digits@1.1.0: name and version from the file's name"
    ran = edgectl("publish", tmp_path / "root.onnx", "--version", "1", *server)
    assert (ran.code, ran.error_code) == (2, "id.bad"), "the rule of names holds for this one too"
    assert edgectl("publish", tmp_path / "root.onnx", "--name", "a", *server).told()[0] == "--version is missing"


@pytest.mark.parametrize(
    "words", [("digits@1", "digits@2"), ("digits@1", "2"), ("digits", "1", "2"), ("digits", "digits@1", "digits@2")]
)
def test_two_versions_are_named_in_any_way(edgectl: Edgectl, fleet: Stub, words: tuple[str, ...]) -> None:
    fleet.says("GET /models/digits/compare", {})
    assert edgectl("model", "compare", *words, "-o", "json").code == 0
    assert fleet.queries("GET /models/digits/compare") == [{"a": "1", "b": "2"}]
    assert edgectl("model", "compare", *words[:1]).code == 2


def test_missing_data_is_named_with_its_flag(edgectl: Edgectl, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    ran = edgectl("publish", tmp_path / "m.onnx", *_IDENTITY, "--eval", tmp_path / "absent.npz")
    assert ran.code == 2
    assert "--eval" in ran.told()[1]


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        ("fastapi", "server", ("server", "check", "--data", "data")),
        ("onnx", "convert", ("convert", "digits-1.0.0.onnx", "--name", "x", "--version", "1", "--out", "out")),
        ("numpy", "all", ("demo", "--once")),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(
    edgectl: Edgectl, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2] / "examples" / "digits")
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
    ran = edgectl(*command)
    assert (ran.code, ran.out) == (1, "")
    what, _why, next_step = ran.told()
    assert what == f"{package} is not installed here"
    assert next_step == f"pip install 'edgefleet[{extra}]'"


def test_a_strategy_that_there_is_none_of_says_which_there_are(edgectl: Edgectl) -> None:
    ran = edgectl("deploy", "digits@1.0.0", "--to", "", "--strategy", "yolo")
    assert ran.code == 2
    _what, why, next_step = ran.told()
    assert all(name in why for name in (ALL, *STRATEGIES))
    assert "edgectl rollout strategy" in next_step


def test_the_strategies_are_those_of_the_server() -> None:
    assert set(STRATEGIES) == set(SERVERS_STRATEGIES)


def test_deploy_needs_exactly_one_of_selector_and_device(edgectl: Edgectl) -> None:
    assert edgectl("deploy", "digits@1.0.0").code == 2
    assert edgectl("deploy", "digits@1.0.0", "--to", "a=b", "--device", "d-1").code == 2


def test_confirmations_need_yes_where_nobody_can_be_asked(edgectl: Edgectl) -> None:
    ran = edgectl("device", "decommission", "d-1", "--server", "http://127.0.0.1:1", "--token", "x")
    assert ran.code == 3
    assert "--yes" in ran.told()[2]


@pytest.mark.parametrize("arguments", [("completion", "bash"), ("version",), ("version", "-o", "json")])
def test_a_closed_pipe_is_no_error(arguments: tuple[str, ...]) -> None:
    nobody_reads, stdout = os.pipe()
    os.close(nobody_reads)
    command = [sys.executable, "-m", "edgefleet_cli.main", *arguments]
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(stdout)
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_exits_130() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "edgefleet_cli.main", "whoami", "--token", "x", "--timeout", "60s"]
        environment = {**os.environ, "EDGECTL_SERVER": f"http://127.0.0.1:{listener.getsockname()[1]}"}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        connection, _ = listener.accept()  # the command is now waiting for an answer
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        connection.close()
    assert process.returncode == 130
    assert "Traceback" not in err


def test_the_demo_takes_no_folder_that_is_in_use(edgectl: Edgectl, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    ran = edgectl("demo", "--once", "--data", tmp_path)
    assert ran.code == 2
    assert "not empty" in ran.told()[0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_demo_says_where_it_looked_for_its_example(edgectl: Edgectl, tmp_path: Path) -> None:
    ran = edgectl("demo", "--once", "--examples", tmp_path)
    assert ran.code == 2
    assert str(tmp_path) in ran.told()[1]


def test_an_unforeseen_failure_is_four_lines_and_a_trace_only_with_debug(
    edgectl: Edgectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "of", lambda _: 1 // 0)
    arguments = ("whoami", "--server", "http://127.0.0.1:1", "--token", "x")
    plain = edgectl(*arguments)
    assert plain.code == 1
    assert plain.told()[0]
    assert "Traceback" not in plain.err
    assert "Traceback" in edgectl(*arguments, "--debug").err


@pytest.mark.parametrize("words", [(), ("device",)])
def test_without_a_command_it_shows_help_and_no_error(edgectl: Edgectl, words: tuple[str, ...]) -> None:
    ran = edgectl(*words)
    assert ran.code == 0
    assert "--help" in ran.out + ran.err
    assert "code:" not in ran.err
