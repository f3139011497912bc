"""`edgectl server`: make a server's data folder and run it. The work is done by the server's own process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.admin import (
    agent_package_commands,
    recovery_commands,
    server_check_commands,
    server_move_commands,
    server_up_commands,
)
from edgefleet_cli.admin.backup import (
    backup_commands,
    backup_key_commands,
    garbage_commands,
    migration_commands,
    schema_commands,
)
from edgefleet_cli.admin.data_folder import check_new, default_data, holds_server
from edgefleet_cli.admin.outside_broker import broker_commands, trust_commands
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import become, child_flags, python_module, require

app = typer.Typer(help="Run a server on this machine.", no_args_is_help=True)
app.command("up")(server_up_commands.up)
app.command("down")(server_up_commands.down)
app.command("backup")(backup_commands.backup)
app.command("verify-backup")(backup_commands.verify_backup)
app.command("restore")(backup_commands.restore)
app.command("restored")(recovery_commands.restored)
check_app = typer.Typer(invoke_without_command=True)
check_app.callback()(server_check_commands.check)
check_app.command("broker")(broker_commands.check_broker)
app.add_typer(check_app, name="check")
app.command("migrate")(migration_commands.migrate)
app.command("upgrade-schema")(schema_commands.upgrade_schema)
app.command("garbage-collect")(garbage_commands.garbage_collect)
app.command("seal")(server_check_commands.seal)
app.command("broker-files")(broker_commands.broker_files)
app.command("broker-trust")(trust_commands.broker_trust)
app.add_typer(agent_package_commands.app, name="agent-packages")
app.add_typer(server_move_commands.app, name="move")
app.add_typer(backup_key_commands.app, name="backup-key")

DataArgument = Annotated[Path | None, typer.Argument(metavar="[DIR]", help="The same as --data DIR.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Data folder of the server; default: in the user's data folder."),
]
Host = Annotated[
    str | None, typer.Option("--host", help="Address of the API and the pages; loopback unless behind TLS.")
]
Port = Annotated[
    int | None, typer.Option("--port", min=0, max=65535, help="Port of the API and the pages; 0 = any free port.")
]
DeviceHost = Annotated[str | None, typer.Option("--device-host", help="Address of the device listener.")]
DevicePort = Annotated[int | None, typer.Option("--device-port", min=0, max=65535, help="Port of the device listener.")]
PublicHost = Annotated[
    str | None, typer.Option("--public-host", help="Name or address under which devices reach this server.")
]
Broker = Annotated[
    str | None, typer.Option("--broker", metavar="B", help="auto, embedded, mosquitto or mqtts://host:port.")
]
BrokerHost = Annotated[str | None, typer.Option("--broker-host", help="Address the broker listens on.")]
BrokerPort = Annotated[
    int | None, typer.Option("--broker-port", min=0, max=65535, help="Port of the broker; 0 = any free port.")
]
Database = Annotated[
    str | None, typer.Option("--db", metavar="URL", help="Database URL; default: SQLite in the data folder.")
]
Roles = Annotated[str | None, typer.Option("--roles", help="Roles of this process: api,gateway,engine,converter.")]
BehindProxy = Annotated[bool, typer.Option("--behind-proxy", help="TLS ends in a proxy in front of this server.")]


TlsCert = Annotated[Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate of API and UI, PEM.")]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Key of that certificate, PEM.")]
Instance = Annotated[str | None, typer.Option("--instance", help="Name of this replica; each needs its own.")]
LogLevel = Annotated[str | None, typer.Option("--log-level", help="DEBUG, INFO, WARNING or ERROR.")]

LogFormat = Annotated[str | None, typer.Option("--log-format", help="text, or json with the field names of ECS.")]


@app.command("init")
def init(
    ctx: typer.Context,
    folder: DataArgument = None,
    data: Data = None,
    public_host: PublicHost = None,
    broker: Broker = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Name of the tenant.")] = None,
    db: Database = None,
) -> None:
    """Create keys, device CA, TUF repository, database and the first admin token in an empty folder."""
    if folder is not None and data is not None and folder != data:
        raise UsageError(
            "two data folders are named",
            why=f"{folder} and {data}: keys, database and blobs are made in one",
            next_step="name one of them, or none for the default",
        )
    chosen = folder or data or default_data()
    require("fastapi", "server")
    if not holds_server(chosen):
        check_new(chosen)
    flags = child_flags(public_host=public_host, broker=broker, tenant=tenant, db=db)
    become(python_module("edgefleet_server.process.init", "--data", str(chosen), *flags))


@app.command("start")
def start(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    data: Data = None,
    host: Host = None,
    port: Port = None,
    device_host: DeviceHost = None,
    device_port: DevicePort = None,
    public_host: PublicHost = None,
    broker: Broker = None,
    broker_host: BrokerHost = None,
    broker_port: BrokerPort = None,
    db: Database = None,
    roles: Roles = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    behind_proxy: BehindProxy = False,
    instance: Instance = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    make: Annotated[
        bool,
        typer.Option(
            "--init",
            envvar="EDGEFLEET_SERVER_INIT",
            help="First make the server, if the data folder is empty, as `server init` does.",
        ),
    ] = False,
) -> None:
    """Run the server until it is stopped."""
    require("fastapi", "server")
    folder = data or default_data()
    if make and not holds_server(folder):
        from edgefleet_cli.admin import background_server

        check_new(folder)
        background_server.make(Session.of(ctx), folder, public_host=public_host, broker=broker, db=db)
    flags = child_flags(
        host=host,
        port=port,
        device_host=device_host,
        device_port=device_port,
        public_host=public_host,
        broker=broker,
        broker_host=broker_host,
        broker_port=broker_port,
        db=db,
        roles=roles,
        tls_cert=tls_cert,
        tls_key=tls_key,
        instance=instance,
        log_level=log_level,
        log_format=log_format,
    )
    if behind_proxy:
        flags.append("--behind-proxy")
    become(python_module("edgefleet_server.main", "--data", str(folder), *flags))


@app.command("signer")
def signer(
    keys: Annotated[Path, typer.Option("--keys", metavar="DIR", help="Folder of the signing keys.")],
    socket: Annotated[Path, typer.Option("--socket", metavar="FILE", help="Unix socket to make and answer on.")],
    user: Annotated[
        list[str] | None, typer.Option("--user", help="User of a server that may ask; repeatable; default: its own.")
    ] = None,
    allow_uri: Annotated[
        list[str] | None,
        typer.Option("--allow-uri", metavar="URI", help="Where a key may be taken in from a key service; repeatable."),
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", metavar="FILE", help="Passphrase of key files, PIN of a token.")
    ] = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Run the signing process apart, as a user whose keys the server cannot read, until it is stopped."""
    require("fastapi", "server")
    flags = child_flags(
        keys=keys, socket=socket, passphrase_file=passphrase_file, log_level=log_level, log_format=log_format
    )
    flags += [part for name in user or () for part in ("--user", name)]
    flags += [part for uri in allow_uri or () for part in ("--allow-uri", uri)]
    become(python_module("edgefleet_server.signing.signer.signer_process", *flags))


@app.command("openapi")
def openapi(
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write; default: stdout.")] = None,
    allow_breaking: Annotated[
        bool, typer.Option("--allow-breaking", help="Replace FILE even if that breaks clients.")
    ] = False,
) -> None:
    """Print or write the OpenAPI document of the installed server; needs no data folder."""
    require("fastapi", "server")
    flags = child_flags(out=out) + (["--allow-breaking"] if allow_breaking else [])
    become(python_module("edgefleet_server.process.openapi_file", *flags))


@app.command("monitoring-files")
def monitoring_files(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write them to; made if it is missing.")],
) -> None:
    """Write rules for Prometheus and dashboards for Grafana, made for the installed server; needs no data folder."""
    require("fastapi", "server")
    become(python_module("edgefleet_server.process.integration_files", *child_flags(out=out)))
