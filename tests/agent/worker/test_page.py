"""The status page: what it shows, what it may load, and to whom it is shown."""

import base64
import hashlib
import json
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.composition.agent_parts import _is_shown
from edgefleet_agent.settings import AgentSettings
from edgefleet_agent.worker.http.status_page import POLICY, status_page
from tests.support.browsers import binary

HOSTILE = "<script>alert(1)</script>\"'&"
STATUS: dict[str, Any] = {
    "device": "press-7",
    "profile": "raspberry-pi-4-ort",
    "agent_version": "0.1.0",
    "gen": 17,
    "connected": True,
    "broker": "fleet.example:8883",
    "outbox": {"messages": 3},
    "refused": {"code": "", "reason": ""},
    "models": [
        {
            "model": "digits",
            "active_target": "digits/1.1.0/x.bundle",
            "active_sha256": "ab" * 32,
            "phase": "committed",
            "slot": "B",
            "serving": True,
            "error_code": "",
            "reason": "",
        },
        {
            "model": "faults",
            "active_target": "faults/0.3.0/x.bundle",
            "active_sha256": "cd" * 32,
            "phase": "rolled_back",
            "slot": "A",
            "serving": True,
            "error_code": "trial.golden",
            "reason": "vector 3, output y: value",
        },
    ],
}
FIGURES = {
    "model_stats": [
        {
            "name": "digits",
            "version": "1.1.0",
            "inference_stats": {"success": {"count": 1234, "ns": 5_000_000_000}, "fail": {"count": 2, "ns": 1}},
        }
    ]
}


def page(folder: Path, status: Any) -> str:
    (folder / "status.json").write_text(status if isinstance(status, str) else json.dumps(status))
    answer = status_page(str(folder / "routes.json"), FIGURES)
    assert answer.status == 200
    assert (b"Content-Security-Policy", POLICY.encode()) in answer.headers
    return answer.body.decode()


def test_it_shows_models_link_and_figures_and_loads_nothing(tmp_path: Path) -> None:
    html = page(tmp_path, STATUS)
    for words in ("press-7", "connected to</span> fleet.example:8883", "1.1.0", "trial.golden", "1234", "4.05 ms"):
        assert words in html
    assert not re.search(r"<script|<link|<img|<form|src=|href=|@import|url\(|\son\w+=| style=", html)
    style = re.search("<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    assert base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode() in POLICY


@pytest.mark.parametrize("status", ["", "[]", "{", json.dumps({"models": None})])
def test_a_status_that_is_none_is_said(tmp_path: Path, status: str) -> None:
    assert "<h2>Models</h2>" in page(tmp_path, status)


def test_whatever_is_written_stays_text(tmp_path: Path) -> None:
    model = {
        **STATUS["models"][1],
        "model": HOSTILE,
        "reason": HOSTILE,
        "phase": HOSTILE,
        "active_target": f"x/{HOSTILE}/y",
    }
    html = page(
        tmp_path, {**STATUS, "device": HOSTILE, "broker": HOSTILE, "refused": {"code": HOSTILE}, "models": [model]}
    )
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 6


def test_it_is_shown_on_loopback_only_unless_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as near, socket.create_server(("0.0.0.0", 0)) as far:
        own = AgentSettings()
        for chosen in (own.status_page, own.metrics):
            assert _is_shown(chosen, [near])
            assert not _is_shown(chosen, [far])
        assert _is_shown("always", [far])
        assert not _is_shown("off", [near])


@pytest.mark.skipif(binary() is None, reason="chromium is not installed")
@pytest.mark.slow
def test_a_browser_shows_it_with_its_style(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(
        page(tmp_path, STATUS).replace(
            "<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        )
    )
    shot = tmp_path / "page.png"
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--screenshot={shot}",
        "--window-size=900,640",
        "--hide-scrollbars",
    ]
    said = subprocess.run(
        [str(binary()), *flags, file.as_uri()], capture_output=True, text=True, check=True, timeout=120
    ).stderr
    assert "Refused to apply" not in said
    assert shot.stat().st_size > 10_000
