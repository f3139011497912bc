"""`edgectl server check` and `seal` on a data folder, with the server's own processes."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Edgectl
from tests.support.servers import copy_server


def test_every_secret_is_listed_and_the_exit_code_says_whether_one_has_a_problem(
    edgectl: Edgectl, tmp_path: Path
) -> None:
    data = tmp_path / "server"
    copy_server(data)
    key = data / "keys" / "secrets.key"
    shown = edgectl("server", "check", "--data", data)
    assert shown.code == 0, shown.err
    assert "Problems" not in shown.out
    assert "keys/secrets.key" in shown.out
    assert "Device CAs" in shown.out

    key.chmod(0o644)
    found = edgectl("server", "check", "--data", data, "-o", "json")
    assert found.code == 1
    (ca,) = found.json["device_cas"]
    assert (len(ca["sha256"]), ca["problem"]) == (64, "")
    secrets = {one["where"]: one for one in found.json["secrets"]}
    assert {path for path, one in secrets.items() if one["problem"]} == {str(key)}
    assert secrets[str(key)]["mode"] == "0644"
    assert {f"{name}.pem" for name in ("root", "targets", "director", "device-ca")} < {
        Path(one).name for one in secrets
    }
    assert all(one["age_s"] >= 0 for one in secrets.values() if one["since"])

    sealed = edgectl("server", "seal", "--rotate", "--data", data, "-o", "json")
    assert sealed.code == 0, sealed.err
    assert key.stat().st_mode & 0o777 == 0o600
    assert sealed.json["key"] in key.read_text().splitlines()[1]
    both = edgectl("server", "seal", "--rotate", "--forget-old", "--data", data)
    assert both.code == 2

    key.unlink()
    assert edgectl("server", "seal", "--data", data).code == 1
    assert edgectl("server", "check", "--data", data, "-o", "json").code == 1

    assert edgectl("server", "seal", "--drop-lost", "--rotate", "--data", data).code == 2
    assert edgectl("server", "seal", "--drop-lost", "--data", data).code != 0  # nobody said yes
    assert not key.exists()
    dropped = edgectl("server", "seal", "--drop-lost", "--data", data, "--yes", "-o", "json")
    assert (dropped.code, dropped.json) == (
        0,
        {"dropped": 0, "lost": [], "bundles": []},
    )  # the key of a server without secrets
    assert edgectl("server", "check", "--data", data, "-o", "json").code == 0
