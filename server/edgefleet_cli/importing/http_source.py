"""A model by https: one file, its digest checked where the address names it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import platformdirs

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.importing.addresses import HttpAddress
from edgefleet_cli.importing.downloads import TIMEOUT, Downloader
from edgefleet_cli.importing.fetch_context import FetchContext, Fetched, WrongDigestError, place_for
from edgefleet_cli.release.conversion.model_files import MODEL_SUFFIXES, describe


def fetch_http(address: HttpAddress, folder: Path, context: FetchContext) -> Fetched:
    """Return the file at an address, in `folder`.

    It is kept in the user's cache while it comes, so that the same command goes on where the last one broke off. Certificates:
    those of the system, or `SSL_CERT_FILE`. Raises ImportFailedError, UsageError.
    """
    place = place_for(folder, address.file_name)
    if place.suffix.lower() not in MODEL_SUFFIXES:
        raise UsageError(
            f"{address.file_name} is not a model file",
            why=f"expected one of {', '.join(sorted(MODEL_SUFFIXES))}",
            next_step="give the address of the model itself; a folder or an archive is not fetched",
        )
    cache = Path(platformdirs.user_cache_path("edgefleet")) / "imports"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = cache / f"{hashlib.sha256(f'{address.url}#{address.sha256}'.encode()).hexdigest()[:32]}.part"
    with httpx.Client(timeout=TIMEOUT) as http:
        headers = Downloader(http, context.clock, context.note).fetch(address.url, part, context.budget)
    part.replace(place)
    came = describe(place, place.name).sha256
    if address.sha256 and came != address.sha256:
        raise WrongDigestError(
            f"{address.file_name} does not have the given digest",
            why=f"its sha256 is {came}, the address says {address.sha256}",
            next_step="find out who changed it; nothing was published",
        )
    facts = {"etag": headers.get("etag"), "last_modified": headers.get("last-modified"), "sha256": came}
    return Fetched(place, {"uri": str(address)} | {key: value[:500] for key, value in facts.items() if value})
