"""The status page of a device on its inference port: one read-only HTML page, for a person at the device.

1. No script, no request to anywhere, no form: the Content-Security-Policy allows one style sheet by its hash and nothing else.
2. What is shown is agentd's own `run/status.json` and the figures of this worker. Everything is escaped, whatever its source.
3. agentd allows it (`Start.status_page`): on loopback by default, elsewhere only with `status_page = "always"`. Who may use the
   port from a browser at all is decided before (`http.server`).
"""

import base64
import hashlib
import html
import json
from pathlib import Path
from typing import Any

from edgefleet_agent.worker.http.server import Response

STATUS_FILE = "status.json"
REFRESH_S = 10

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--good:#1a7f37;--bad:#c62828;--dim:#6b7280}
@media(prefers-color-scheme:dark){:root{--good:#4ac26b;--bad:#ff7b72;--dim:#9aa4b2}}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .4rem}footer{margin-top:2rem}
p{margin:.2rem 0}.dim{color:var(--dim)}.good{color:var(--good)}.bad{color:var(--bad)}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.4rem .8rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--dim);font-size:.9rem}.n{text-align:right}td.n{font-variant-numeric:tabular-nums}
code{font:.9em ui-monospace,monospace;overflow-wrap:anywhere}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"Content-Security-Policy", POLICY.encode()),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cache-Control", b"no-store"),
]


def status_page(routes_path: str, statistics: dict[str, Any]) -> Response:
    """Return the page. routes_path: the status lies next to it. statistics: of this worker, as the API gives them."""
    try:
        status = json.loads(Path(routes_path).with_name(STATUS_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        status = {}
    body = _page(status if isinstance(status, dict) else {}, statistics.get("model_stats", []))
    return Response(200, body.encode(), b"text/html; charset=utf-8", HEADERS)


def escape(value: object) -> str:
    """Return text that is text in HTML, also inside quotes."""
    return html.escape(str(value))


def _page(status: dict[str, Any], figures: list[dict[str, Any]]) -> str:
    device = escape(status.get("device", "this device"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{device} · edgefleet</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="refresh" content="{REFRESH_S}"><style>{_STYLE}</style></head><body>'
        f"<h1>{device}</h1>{_head(status)}<h2>Models</h2>{_models(status)}{_figures(figures)}"
        f'<footer class="dim">Read only; refreshed every {REFRESH_S} s. More: <code>edge-agent status</code>, '
        f"<code>edge-agent doctor</code>.</footer></body></html>"
    )


def _head(status: dict[str, Any]) -> str:
    if not status:
        return '<p class="bad">The agent has written no status: it is just starting, or it has ended.</p>'
    connected = status.get("connected")
    link = '<span class="good">connected to</span>' if connected else '<span class="bad">not connected to</span>'
    outbox = status.get("outbox") or {}
    refused = status.get("refused") or {}
    lines = [
        (
            f'<p class="dim">profile {escape(status.get("profile", "-"))} · agent {escape(status.get("agent_version", "-"))} · '
            f"document {escape(status.get('gen', '-'))}</p>"
        ),
        f"<p>{link} {escape(status.get('broker', '-'))} · {escape(outbox.get('messages', 0))} messages waiting</p>",
    ]
    if refused.get("code"):
        lines.append(
            f'<p class="bad">Refused document: {escape(refused["code"])}: {escape(refused.get("reason", ""))}</p>'
        )
    return "".join(lines)


def _models(status: dict[str, Any]) -> str:
    rows = []
    for model in status.get("models") or []:
        parts = str(model.get("active_target", "")).split("/")
        serving = (
            '<span class="good">serving</span>' if model.get("serving") else '<span class="bad">not serving</span>'
        )
        wrong = f"{model.get('error_code')}: {model.get('reason')}" if model.get("error_code") else ""
        cells = (
            f"<strong>{escape(model.get('model', '-'))}</strong>",
            escape(parts[1] if len(parts) > 1 else "-"),
            escape(model.get("phase", "-")),
            escape(model.get("slot") or "-"),
            serving,
            f"<code>{escape(str(model.get('active_sha256', ''))[:12] or '-')}</code>",
            f'<span class="bad">{escape(wrong)}</span>' if wrong else "",
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    if not rows:
        return '<p class="dim">None yet.</p>'
    return _table(("model", "version", "phase", "slot", "", "sha256", ""), rows)


def _figures(figures: list[dict[str, Any]]) -> str:
    rows = []
    for row in figures:
        done, failed = row["inference_stats"]["success"], row["inference_stats"]["fail"]
        each_ms = done["ns"] / done["count"] / 1e6 if done["count"] else 0.0
        numbers = "".join(
            f'<td class="n">{text}</td>' for text in (done["count"], failed["count"], f"{each_ms:.2f} ms")
        )
        rows.append(f"<tr><td>{escape(row['name'])}@{escape(row['version'])}</td>{numbers}</tr>")
    heading = "<h2>Answers of the worker that shows this page</h2>"
    return heading + _table(("model", "answers", "errors", "mean"), rows, numbers=3)


def _table(headers: tuple[str, ...], rows: list[str], numbers: int = 0) -> str:
    """Return a table. numbers: how many of its last columns hold some."""
    first = len(headers) - numbers
    head = "".join(f"<th{' class=n' if i >= first else ''}>{header}</th>" for i, header in enumerate(headers))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
