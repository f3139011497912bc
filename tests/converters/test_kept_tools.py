"""What a tool environment adds to the digest of the tools: its stamp, and nothing below."""

from pathlib import Path

from edgefleet_converters.result_cache import tools_digest


def test_only_the_stamp_of_a_tool_environment_counts(tmp_path: Path) -> None:
    (tmp_path / "torch" / "lib").mkdir(parents=True)
    digests = []
    for name in ("torch/edgefleet.json", "torch/lib/other.json", "torch/lib/edgefleet.json"):
        (tmp_path / name).write_text("{}")
        tools_digest.cache_clear()
        digests.append(tools_digest(tmp_path))
    assert digests[0] == digests[1] == digests[2], "a gigabyte of packages is not walked through for it"
    (tmp_path / "torch" / "edgefleet.json").write_text('{"python": "3.12"}')
    tools_digest.cache_clear()
    assert tools_digest(tmp_path) != digests[0]
