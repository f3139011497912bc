"""Downloading a file by HTTP: in pieces, counted, taken up again where it broke off, never from https: to http:."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

import httpx

from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.importing.fetch_context import Budget, ImportFailedError

TRIES: Final = 5
FIRST_PAUSE_S: Final = 0.5
MAX_REDIRECTS: Final = 5
TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(?:\d{1,19}|\*)")


class _AgainError(Exception):
    """What came cannot be used; the next try begins from the start."""


@dataclass
class Downloader:
    """Downloads with one HTTP client. note: called for each try that failed. headers: sent to the first host only."""

    http: httpx.Client
    clock: SystemClock
    note: Callable[[str], None]
    headers: Mapping[str, str] = field(default_factory=dict)

    def fetch(self, url: str, file: Path, budget: Budget) -> Mapping[str, str]:
        """Write what is at `url` into `file` and return the headers of the last answer.

        What of `file` is there already is kept when `FILE.etag` next to it says which version it belongs to and the server still
        has that one. Raises ImportFailedError, ImportTooLargeError.
        """
        counted = 0
        for attempt in range(1, TRIES + 1):
            try:
                with self._opened(url, _range_headers(file)) as response:
                    start = _start(response, file)
                    _remember(file, response)
                    budget.take(start - counted)
                    counted = start
                    budget.announce(int(response.headers.get("content-length") or 0))
                    with file.open("ab" if start else "wb") as sink:
                        for chunk in response.iter_bytes():
                            counted += len(chunk)
                            budget.take(len(chunk))
                            sink.write(chunk)
                    _note(file).unlink(missing_ok=True)
                    return dict(response.headers)
            except (httpx.TransportError, _AgainError) as error:
                cause = str(error) or type(error).__name__
                if attempt == TRIES:
                    raise ImportFailedError(
                        f"the download from {_host(url)} broke off {TRIES} times",
                        why=cause,
                        next_step="run the same command again; the download resumes where the server supports it",
                    ) from error
                self.note(f"the download from {_host(url)} broke off after {counted} bytes ({cause}); trying again")
                self.clock.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
        raise AssertionError("every try returns or raises")

    @contextlib.contextmanager
    def _opened(self, url: str, range_headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """Yield the answer behind redirects. Raises ImportFailedError for a refusal, _AgainError for one that may pass."""
        here = url
        for _ in range(MAX_REDIRECTS + 1):
            own = self.headers if _host(here) == _host(url) else {}
            with self.http.stream(
                "GET", here, headers={"accept-encoding": "identity", **own, **range_headers}
            ) as response:
                if response.has_redirect_location:
                    here = _behind(here, response.headers["location"])
                    continue
                _check(response, here)
                yield response
                return
        raise ImportFailedError(
            f"{_host(url)} redirects in a circle",
            why=f"more than {MAX_REDIRECTS} times",
            next_step="give the address of the file",
        )


def problem(response: httpx.Response, url: str) -> ImportFailedError:
    """Return the refusal of an answer that is none."""
    status = response.status_code
    cures = {
        401: "give credentials: https://USER:PASSWORD@HOST/…, or those of the registry in the environment",
        403: "check what these credentials may read",
        404: "check the address",
    }
    return ImportFailedError(
        f"{_host(url)} answers {status} {response.reason_phrase}".rstrip(),
        why=f"for {urlsplit(url).path[:200]}",
        next_step=cures.get(status, "look at the log of that server"),
    )


def _check(response: httpx.Response, url: str) -> None:
    if response.status_code in {408, 416, 425, 429} or response.status_code >= 500:
        raise _AgainError(f"{response.status_code} {response.reason_phrase}")
    if response.status_code not in {200, 206}:
        raise problem(response, url)


def _behind(url: str, location: str) -> str:
    target = urljoin(url, location)
    if urlsplit(target).scheme not in {"https", urlsplit(url).scheme}:
        raise ImportFailedError(
            f"{_host(url)} redirects to {urlsplit(target).scheme}:",
            why="it could be changed on the way",
            next_step="give the address of the file itself",
        )
    return target


def _range_headers(file: Path) -> dict[str, str]:
    """Return the headers that ask for the rest of a file that is there in part."""
    try:
        have, etag = file.stat().st_size, _note(file).read_text(encoding="utf-8")
    except OSError:
        have, etag = 0, ""
    return {"range": f"bytes={have}-", "if-range": etag} if have and etag else {}


def _start(response: httpx.Response, file: Path) -> int:
    """Return the byte at which this answer begins: where the file ends, or 0. Raises _AgainError for any other place."""
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        return 0
    found = _RANGE.fullmatch(response.headers.get("content-range", ""))
    if not found or int(found.group(1)) != file.stat().st_size:
        file.unlink(missing_ok=True)
        raise _AgainError("the server sent another part than was asked for")
    return int(found.group(1))


def _remember(file: Path, response: httpx.Response) -> None:
    """Keep which version comes, where the server names it for certain (RFC 9110 §8.8.1: a weak one does not do)."""
    etag = response.headers.get("etag", "")
    if etag.startswith('"') and "content-encoding" not in response.headers:
        _note(file).write_text(etag, encoding="utf-8")
    else:
        _note(file).unlink(missing_ok=True)


def _note(file: Path) -> Path:
    return file.with_name(f"{file.name}.etag")


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
