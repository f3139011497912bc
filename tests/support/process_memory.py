"""Private keys in the memory of a process, as whoever has taken it over would look for them. Needs root."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgefleet_server.signing.keys.key_files import PrivateKey, load_private_key

CHUNK = 1 << 24
OVERLAP = 128


def forms_of(folder: Path) -> dict[str, list[bytes]]:
    """Return the forms of each private key of a key folder, by name of its file: raw, raw turned round (as big numbers are), PEM."""
    found = {}
    for path in folder.glob("*.pem"):
        passphrase = (folder / "root.passphrase").read_bytes() if path.name == "root.pem" else None
        key = load_private_key(path, passphrase)
        raw = _raw(key)
        found[path.name] = [raw, raw[::-1], path.read_bytes().split(b"\n")[1]]
    return found


def _raw(key: PrivateKey) -> bytes:
    if isinstance(key, Ed25519PrivateKey):
        return key.private_bytes_raw()
    return key.private_numbers().private_value.to_bytes(32, "big")


def keys_in(pid: int, forms: Mapping[str, list[bytes]]) -> set[str]:
    """Return which of the keys are in the memory of a process, in any form."""
    found: set[str] = set()
    for data in _parts(pid):
        found |= {name for name, some in forms.items() if any(one in data for one in some)}
    return found


def _parts(pid: int) -> Iterator[bytes]:
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            start, end = (int(one, 16) for one in span.split("-"))
            for at in range(start, end, CHUNK):
                try:
                    memory.seek(at)
                    yield memory.read(min(CHUNK + OVERLAP, end - at))
                except OSError:  # went away meanwhile
                    break
