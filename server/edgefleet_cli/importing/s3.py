"""Models in S3 and what speaks like it, through obstore; `pip install 'edgefleet[import]'` brings it.

Credentials, region and endpoint come from the `AWS_…` variables; plain http: only to an endpoint on this machine, or when
`AWS_ALLOW_HTTP` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.subprocesses import require
from edgefleet_cli.importing.addresses import S3Address
from edgefleet_cli.importing.fetch_context import FetchContext, Fetched, ImportFailedError, WrongDigestError, place_for
from edgefleet_cli.release.conversion.model_files import MODEL_SUFFIXES, describe

if TYPE_CHECKING:
    from obstore.store import S3Store

TRIES = 4
_CHUNK = 1024 * 1024
_HERE = ("localhost", "127.0.0.1", "::1")


def fetch_s3(address: S3Address, folder: Path, context: FetchContext) -> Fetched:
    """Return an object, or all objects below a prefix. Raises ImportFailedError, UsageError, MissingPartError."""
    if address.is_folder:
        into = folder / (address.key.strip("/").rpartition("/")[2] or address.bucket)
        into.mkdir()
        fetch_folder(address, into, context)
        return Fetched(into, {"uri": str(address)})
    place = place_for(folder, address.key.rpartition("/")[2])
    if place.suffix.lower() not in MODEL_SUFFIXES:
        raise UsageError(
            f"{address.key} is not a model file",
            why=f"expected one of {', '.join(sorted(MODEL_SUFFIXES))}",
            next_step="a folder is written with a slash at its end: s3://BUCKET/FOLDER/",
        )
    facts = _fetch(s3_store(address, context.environ), address.key, place, context)
    came = describe(place, place.name).sha256
    if address.sha256 and came != address.sha256:
        raise WrongDigestError(
            f"{address} does not have the given digest",
            why=f"its sha256 is {came}, the address says {address.sha256}",
            next_step="find out who changed it; nothing was published",
        )
    return Fetched(place, {"uri": str(address), "sha256": came, **facts})


def fetch_folder(address: S3Address, into: Path, context: FetchContext) -> None:
    """Write every object below a prefix into `into`. Raises ImportFailedError."""
    store, prefix, count = s3_store(address, context.environ), address.key, 0
    import obstore

    try:
        for page in obstore.list(store, prefix=prefix.rstrip("/") or None):
            for entry in page:
                key = str(entry["path"])
                name = key[len(prefix) :]
                if not name or not key.startswith(prefix) or any(part.startswith(".") for part in name.split("/")):
                    continue  # the folder's own marker, or hidden
                context.budget.take_file()
                context.budget.announce(int(entry["size"]))
                _fetch(store, key, place_for(into, name), context)
                count += 1
    except obstore.exceptions.BaseError as error:
        raise _failed(address, error) from error
    if count == 0:
        raise ImportFailedError(
            f"there is nothing at {address}", why="the listing is empty", next_step="check bucket and prefix"
        )


def _fetch(store: S3Store, key: str, place: Path, context: FetchContext) -> dict[str, str]:
    """Write one object and return `{etag, object_version}`. What broke off goes on where it was, while the object is the same."""
    import obstore

    etag, version = "", ""
    for attempt in range(1, TRIES + 1):
        have = place.stat().st_size if place.exists() else 0
        options: Any = {"range": {"offset": have}, "if_match": etag} if have and etag else {}
        try:
            answer = obstore.get(store, key, options=options)
            etag, version = str(answer.meta.get("e_tag") or ""), str(answer.meta.get("version") or "")
            context.budget.announce(int(answer.meta["size"]) - have)
            with place.open("ab" if options else "wb") as sink:
                for chunk in answer.stream(min_chunk_size=_CHUNK):
                    context.budget.take(len(chunk))
                    sink.write(chunk)
        except (FileNotFoundError, obstore.exceptions.BaseError) as error:
            if attempt == TRIES or isinstance(error, FileNotFoundError | obstore.exceptions.NotFoundError):
                raise _failed(key, error) from error
            if not etag or isinstance(error, obstore.exceptions.PreconditionError):
                place.unlink(missing_ok=True)
                etag = ""
            context.note(f"{key} broke off ({_line(error)}); trying again")
            context.clock.sleep(0.5 * 2 ** (attempt - 1))
        else:
            facts = {"etag": etag, "object_version": version}
            return {name: value[:500] for name, value in facts.items() if value}
    raise AssertionError("every try returns or raises")


def s3_store(address: S3Address, environ: Mapping[str, str]) -> S3Store:
    """Return the bucket of an address. Raises MissingPartError."""
    require("obstore", "import")
    from obstore.store import S3Store

    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or environ.get("AWS_ENDPOINT")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    config: dict[str, Any] = {"region": region}
    if endpoint:
        is_here = urlsplit(endpoint).hostname in _HERE
        config["endpoint"] = endpoint
        if is_here or environ.get("AWS_ALLOW_HTTP", "").lower() in {"1", "true"}:
            return S3Store(address.bucket, client_options={"allow_http": True}, **config)
    return S3Store(address.bucket, **config)


def _failed(what: object, error: Exception) -> ImportFailedError:
    return ImportFailedError(
        f"cannot fetch {what}",
        why=_line(error),
        next_step="check the bucket, the key, and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL",
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:240] or type(error).__name__
