"""Which part of a span is a device's own: what many devices would do in the same second they do one after the other. Pure.

The part is a hash, not a random number: it is the same after a restart of the device, and both sides can say what it is.
"""

from hashlib import sha256


def part_of(device: str, word: str) -> float:
    """Return the device's part of a span, 0 <= part < 1: uniform over devices for a word, and another one for another word."""
    drawn = sha256(f"{device}\0{word}".encode()).digest()[:6]  # 48 bits: a float holds them exactly
    return int.from_bytes(drawn, "big") / (1 << 48)


def start_after_s(device: str, sha256: str, within_s: int) -> int:
    """Return after how many whole seconds a device begins to ask for a bundle, 0 <= n < max(1, within_s)."""
    return int(part_of(device, sha256) * within_s)
