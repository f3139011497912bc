"""Files of others are the ones that were looked at: exact, with their licence, and none is missing."""

from hashlib import sha256
from importlib.resources import files


def test_every_file_of_others_is_as_it_was_taken_in() -> None:
    folder = files("edgefleet_server.dashboard").joinpath("static", "vendor")
    lines = folder.joinpath("SHA256SUMS").read_text("utf-8").splitlines()
    told = {name: digest for digest, name in (line.split("  ") for line in lines)}
    there = {one.name for one in folder.iterdir()} - {"SHA256SUMS", "README.md"}
    assert there == set(told)
    assert {name: sha256(folder.joinpath(name).read_bytes()).hexdigest() for name in told} == told
