"""A hostile program in the inference worker's place: it opens no socket but unix sockets, and a real worker answers all the same."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.worker.conftest import Rig
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.support.device_python import IS_EMULATED

pytestmark = pytest.mark.skipif(IS_EMULATED, reason="an emulator takes no filter")
ATTEMPTS = """
import ctypes, json, socket, sys, threading
from edgefleet_agent.worker.runtime.call_filter import forbid_network

def error_of(family, kind, address):
    try:
        with socket.socket(family, kind) as one:
            one.settimeout(2)
            one.connect(address)
    except OSError as error:
        return error.errno
    return 0

def attempts():
    for number in (101, 310) if sys.argv[3] == "x86_64" else (117, 270):  # ptrace, process_vm_readv
        assert libc.syscall(number, 0, 0, 0, 0, 0, 0) < 0
        found.append(ctypes.get_errno())
    found.append(error_of(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", int(sys.argv[1]))))
    found.append(error_of(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", int(sys.argv[1]))))
    found.append(error_of(socket.AF_INET6, socket.SOCK_STREAM, ("::1", int(sys.argv[1]))))
    found.append(error_of(socket.AF_NETLINK, socket.SOCK_RAW, (0, 0)))
    found.append(error_of(socket.AF_UNIX, socket.SOCK_STREAM, sys.argv[2]))

def redirect(connection, step):
    assert libc.connect(connection.fileno(), bytes(16), 16) == 0  # AF_UNSPEC: off its peer
    try:
        step(connection)
    except OSError as error:
        return error.errno
    return 0

def inherited():
    address = ("127.0.0.1", int(sys.argv[1]))
    for step in (lambda one: one.connect(address), lambda one: one.sendto(b"x", socket.MSG_FASTOPEN, address)):
        with socket.socket(fileno=int(sys.argv.pop())) as accepted:
            found.append(redirect(accepted, step))

libc, found, go = ctypes.CDLL(None, use_errno=True), [], threading.Event()
early = threading.Thread(target=lambda: (go.wait(), attempts()))  # a thread of a library that was there before the filter
early.start()
has_landlock = forbid_network()[1]
go.set()
early.join()
attempts()
inherited()
print(json.dumps({"found": found, "has_landlock": has_landlock}))
"""


def test_the_worker_has_a_filter_on_all_threads_and_answers_on_the_inherited_port(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    try:
        worker = rig.start(bundle_bytes(classifier_onnx()))
        worker.serve()
        assert rig.infer([[1.0, 2.0, 3.0, 4.0]])[0] == 200
        tasks = list(Path(f"/proc/{worker.link.pid}/task").glob("*/status"))
        lines = [path.read_text().splitlines() for path in tasks]
        assert tasks
        assert all("Seccomp:\t2" in text and "NoNewPrivs:\t1" in text for text in lines)
    finally:
        rig.close()


def test_no_socket_leaves_the_device_from_any_thread_of_a_worker(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    callers = [socket.create_connection(("127.0.0.1", rig.port)) for _ in range(2)]
    rig.tcp.setblocking(True)
    accepted = [rig.tcp.accept()[0] for _ in callers]
    try:
        numbers = [one.fileno() for one in accepted]
        command = [sys.executable, "-c", ATTEMPTS, str(rig.port), str(rig.socket_path), os.uname().machine]
        command += [str(number) for number in numbers]
        done = subprocess.run(command, capture_output=True, text=True, check=True, pass_fds=numbers)
    finally:
        for one in (*callers, *accepted):
            one.close()
        rig.close()
    answer = json.loads(done.stdout)
    new_sockets = [errno.EPERM] * 2 + [errno.EAFNOSUPPORT] * 4 + [0]
    redirected = [errno.EACCES if answer["has_landlock"] else 0, errno.EPERM]
    assert answer["found"] == [*new_sockets * 2, *redirected]
