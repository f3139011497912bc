"""Which settings are in force, where each comes from, and which are refused or doubtful: `edgectl server check --settings`.

    python -m edgefleet_server.process.setting_check --data DIR

Loads nothing of the server but its settings. Changes nothing.
"""

import argparse
import ipaddress
import json
import sys
from pathlib import Path
from typing import Any, Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.setting_sources import Origin, SettingsError, Source
from edgefleet_server.settings import ServerSettings, explain, load_settings, secret_names

WILDCARDS: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  # compared with, never bound


def is_loopback(host: str) -> bool:
    """Return whether an address only serves this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_settings(settings: ServerSettings) -> None:
    """Refuse settings that are unsafe or cannot work together. Raises SettingsError."""
    has_tls = settings.api_tls_cert is not None and settings.api_tls_key is not None
    if (settings.api_tls_cert is None) != (settings.api_tls_key is None):
        raise SettingsError(
            "TLS for the API needs both a certificate and a key", next_step="give --tls-cert and --tls-key"
        )
    if not is_loopback(settings.api_host) and not has_tls and not settings.behind_proxy:
        raise SettingsError(
            f"the API would send tokens in plain HTTP on {settings.api_host}",
            next_step="give --tls-cert and --tls-key, or --behind-proxy when a TLS proxy stands in front, or use 127.0.0.1",
        )
    if settings.otlp_endpoint:
        _check_otlp()
    if settings.device_public_host in WILDCARDS:
        raise SettingsError(
            f"devices cannot connect to {settings.device_public_host!r}",
            next_step="name the address under which devices reach this server: --public-host HOST",
        )


def _check_otlp() -> None:
    try:
        from edgefleet_server.observability.otlp import exporter  # noqa: F401  # whether it can be loaded
    except ImportError as error:
        raise SettingsError(
            f"otlp_endpoint is set, but what exports by OTLP is not installed: {error}",
            next_step="install it: `pip install 'edgefleet[otel]'`, or take otlp_endpoint out of server.toml",
        ) from error


def describe_settings(settings: ServerSettings, flags: dict[str, object]) -> list[dict[str, Any]]:
    """Return each setting: value, source, place, what is in force when that is not the value, and what is doubtful about it.

    The value of a secret is "set" or None. flags: the arguments that were given, None for one that was not.
    """
    values = settings.model_dump(mode="json")
    origins = explain(settings, flags)
    force, doubts = _in_force(settings), doubts_of(settings, origins)
    secrets = set(secret_names())
    entries = []
    for name in ServerSettings.model_fields:
        origin = origins[name]
        is_default = origin.source is Source.DEFAULT
        value = values[name] if name not in secrets else None if is_default else "set"
        entries.append(
            {
                "name": name,
                "value": value,
                "is_default": is_default,
                "source": origin.source.value,
                "where": origin.where,
                "in_force": force.get(name, ""),
                "doubt": doubts.get(name, ""),
            }
        )
    return entries


def _in_force(settings: ServerSettings) -> dict[str, str]:
    """Return what is used, for settings whose value does not say it."""
    from edgefleet_server.gateway.broker.model import choose_broker

    choice = choose_broker(settings.broker)
    found = {
        "broker": f"{choice.kind.value}: {choice.reason}",
        "broker_folder": str(settings.broker_dir),
        "tools_dir": str(settings.tools_folder),
        "public_host": settings.device_public_host,
        "dashboard_url": settings.dashboard_address,
    }
    if settings.blob_url is None:
        found["blob_url"] = str(settings.blobs_dir)
    if settings.secret("database_url") is None:
        found["database_url"] = f"SQLite {settings.data_dir / 'edgefleet.db'}"
    return found


def doubts_of(settings: ServerSettings, origins: dict[str, Origin]) -> dict[str, str]:
    """Return what an operator should look at again, by setting. Pure but for the origins, which are given."""
    found = {}
    for name in secret_names():
        if origins[name].source is Source.FLAG:
            found[name] = "every user of this machine sees it in the list of processes; use a file"
        elif origins[name].source is Source.ENVIRONMENT:
            found[name] = f"it is in the environment of each child; use {name}_file or a credential"
    if settings.allow_pickle:
        found["allow_pickle"] = "reading a pickle runs the code in it"
    if settings.broker_port == 0 and settings.broker in {"auto", "embedded", "mosquitto"}:
        found["broker_port"] = "a free port at each start: enrolled devices cannot find it again"
    if settings.rate_limit_per_min == 0:
        found["rate_limit_per_min"] = "one client may take all of the API"
    if settings.behind_proxy and is_loopback(settings.api_host) is False:
        found["behind_proxy"] = f"{settings.api_host} answers plain HTTP to anyone who reaches it past the proxy"
    if settings.drain_s > _UNIT_STOP_S - settings.finish_s - _OTHER_PARTS_S:
        found["drain_s"] = f"the service of systemd is killed {_UNIT_STOP_S:g} s after SIGTERM; raise TimeoutStopSec"
    return found


_UNIT_STOP_S: Final = 60.0
_OTHER_PARTS_S: Final = 15.0


def main(arguments: list[str] | None = None) -> int:
    """Print the settings of a data folder as JSON. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="edgectl server check --settings")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--broker")
    given: dict[str, Any] = vars(parser.parse_args(arguments))
    data_dir: Path = given.pop("data").absolute()
    try:
        settings = load_settings(data_dir, **given)
        check_settings(settings)
        entries = describe_settings(settings, given)
    except EdgefleetError as error:
        from edgefleet_server.process.init import report_error

        report_error(error)
        return 1
    sys.stdout.write(json.dumps({"data_dir": str(data_dir), "settings": entries}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
