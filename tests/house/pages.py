"""Reads the pages of the documentation: shell blocks with their markers, and links.

A shell block is fenced as `sh`. A comment on the line above it may say how it is treated:
- `<!-- not run: REASON -->`: it needs another machine, a person, or is what runs the test itself.
- `<!-- run by: TEST -->`: that test runs it, because it needs more than a folder; the test names the page.
- `<!-- background until: COMMAND -->`: it keeps running; the page goes on when COMMAND succeeds, and it is ended with the page.
- `<!-- prints: REGEX -->`: a claim of the page: what the block prints (both streams) has a match, `^` and `$` at lines. It may repeat.
A page may say `<!-- needs: server -->`: a server is started for it and `edgectl` is logged in as admin. Its data folder is there already,
a copy of one that was made once: what `edgectl server init` does is run by the pages that are about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.house.tree import ROOT, tracked

_FENCE = re.compile(r"^```(\S*)\s*$")
_CLAIM = re.compile(r"^<!-- prints: (.+) -->$")
_MARKER = re.compile(r"^<!-- (not run|run by|background until): (.+) -->$")
_KINDS = {"not run": "skip", "run by": "elsewhere", "background until": "background"}
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_INLINE_CODE = re.compile(r"`[^`]*`")
SHELL_WORDS = {"sh", "bash", "shell", "console", "zsh"}
READY_TRIES = 600
READY_PAUSE_S = 0.2


@dataclass(frozen=True)
class Block:
    """One fenced block. kind: run, skip, elsewhere or background; note: the reason, the test, or the command that says it is ready.

    prints: patterns of which the output of a block that is run has a match each.
    """

    page: Path
    line: int
    language: str
    text: str
    kind: str
    note: str
    prints: tuple[str, ...] = ()


def pages() -> list[Path]:
    """Return every documentation page, relative to the root."""
    folders = ("docs", "examples", "deploy")
    return [p for p in tracked() if p.suffix == ".md" and (len(p.parts) == 1 or p.parts[0] in folders)]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    found: list[Block] = []
    lines = (ROOT / page).read_text().splitlines()
    opened: tuple[int, str] | None = None
    marker, prints = ("run", ""), list[str]()
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if opened is None and fence and fence.group(1):
            opened = (number, fence.group(1))
        elif opened is None and line == "```":
            opened = (number, "")
        elif opened is not None and line == "```":
            start, language = opened
            text = "\n".join(lines[start : number - 1])
            assert marker[0] == "run" or not prints, (
                f"{page}:{start}: only of a block that is run is it known what it prints"
            )
            found.append(Block(page, start, language, text, *marker, tuple(prints)))
            opened, marker, prints = None, ("run", ""), []
        elif opened is None and (claim := _CLAIM.match(line)):
            prints.append(claim[1])
        elif opened is None and line.strip():
            match = _MARKER.match(line)
            marker = ("run", "") if match is None else (_KINDS[match[1]], match[2])
            prints = []
    assert opened is None, f"{page}: a block that is not closed"
    return found


def shell_blocks(page: Path) -> list[Block]:
    """Return the page's `sh` blocks."""
    return [block for block in blocks(page) if block.language == "sh"]


def needs_server(page: Path) -> bool:
    """Say whether the page asks for a running server."""
    return "<!-- needs: server -->" in (ROOT / page).read_text()


def links(page: Path) -> Iterator[str]:
    """Yield the targets of the page's links, outside of code."""
    inside = False
    for line in (ROOT / page).read_text().splitlines():
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            # a link's text may be code: only its target counts
            for match in _LINK.finditer(line):
                yield match.group(1)


def anchors(page: Path) -> set[str]:
    """Return the anchors that the headings of a page make, as GitHub does."""
    found = set()
    for line in (ROOT / page).read_text().splitlines():
        if line.startswith("#"):
            title = _INLINE_CODE.sub(lambda m: m.group()[1:-1], line.lstrip("#").strip()).lower()
            found.add(re.sub(r"[^\w\- ]", "", title).replace(" ", "-"))
    return found


SERVER_DATA = ".docs-server"
SERVER_SETUP = Block(
    Path("tests/house/pages.py"),
    0,
    "sh",
    f"edgectl server start --data {SERVER_DATA} --port 0 --device-port 0",
    "background",
    f"test -e {SERVER_DATA}/run/server.json",
)
LOGIN = f"""\
export EDGECTL_SERVER=$(python -c "import json; print(json.load(open('{SERVER_DATA}/run/server.json'))['api_url'])")
export EDGECTL_TOKEN=$(cat {SERVER_DATA}/admin.token)"""


PRELUDE = f"""\
set -euo pipefail
pids=()
page_root=$PWD
shown=
finish() {{
  if [ -n "$shown" ]; then cat "$shown" >&4; fi
  for pid in ${{pids[@]+"${{pids[@]}}"}}; do
    kill -TERM -- "-$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
}}
trap finish EXIT
ready() {{ # pid, command, log
  for _ in $(seq {READY_TRIES}); do
    if eval "$2" >/dev/null 2>&1; then return 0; fi
    kill -0 "$1" 2>/dev/null || break
    sleep {READY_PAUSE_S}
  done
  cat "$3" >&2
  return 1
}}"""


def script(page: Path, *, has_server: bool = False) -> str:
    """Return one bash script that runs the page's blocks in order and ends what they started.

    has_server: the server that the page needs runs already; else the script starts it.
    """
    parts = [PRELUDE]
    if needs_server(page):
        parts += [*([] if has_server else _background(SERVER_SETUP)), LOGIN]
    for block in shell_blocks(page):
        if block.kind in ("skip", "elsewhere"):
            continue
        parts.append(f"echo '+ {page}:{block.line}' >&2")
        parts += _background(block) if block.kind == "background" else _foreground(block)
    return "\n".join(parts) + "\n"


def _foreground(block: Block) -> list[str]:
    """Return the block; where it makes claims, its output goes into a file first. No subshell: it may set what later blocks use."""
    if not block.prints:
        return [block.text]
    file = f"$page_root/{output_of(block)}"
    return [
        f'shown="{file}"; exec 3>&1 4>&2 >"$shown" 2>&1',
        block.text,
        'exec 1>&3 2>&4 3>&- 4>&-; cat "$shown"; shown=',
    ]


def output_of(block: Block) -> str:
    """Return the name of the file with what a block that makes claims printed."""
    return f".out-{block.line}"


def unmet(page: Path, folder: Path) -> list[str]:
    """Return the claims of a page that did not come true when its script ran in `folder`."""
    return [
        f"{page}:{block.line} does not print {claim!r}"
        for block in shell_blocks(page)
        for claim in block.prints
        if not re.search(claim, (folder / output_of(block)).read_text(errors="replace"), re.MULTILINE)
    ]


def _background(block: Block) -> list[str]:
    log = f'"$page_root/.log-{block.line}"'
    return [
        "set -m",  # its own process group, so that all of it can be ended
        f"( set +m\n{block.text}\n) >{log} 2>&1 &",
        'pids=($! ${pids[@]+"${pids[@]}"})',  # last started, first ended
        "set +m",
        f"ready \"${{pids[0]}}\" '{block.note}' {log}",
    ]
