"""Settings of one server process: built once in the entry point, frozen, passed down.

`setting_sources` says where they come from, and in which order. No other module reads the environment.
"""

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableTextError

from edgefleet_protocol.errors import BadIdError
from edgefleet_protocol.ids import parse_tenant
from edgefleet_server.identity_provider import LOOPBACK, IdentityProvider, check_providers
from edgefleet_server.outbound.address_policy import parse_networks
from edgefleet_server.setting_sources import (
    ENVIRONMENT,
    Given,
    Origin,
    SettingsError,
    Source,
    credential_file,
    did_you_mean,
    read_sources,
    text_of,
)

MIB = 1024 * 1024


class ServerRole(StrEnum):
    """What one server process does; any number of processes may share a role on PostgreSQL."""

    API = "api"
    GATEWAY = "gateway"
    ENGINE = "engine"
    CONVERTER = "converter"


ALL_ROLES = tuple(ServerRole)


class ServerSettings(BaseSettings):
    """All settings of the server. Sizes are bytes, times are seconds."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT, frozen=True, extra="forbid")

    data_dir: Path
    """Data folder of this server (keys, database, blobs); `--data` of the commands."""
    tenant: str = "default"
    """Tenant name: a level of every MQTT topic. Cannot change after the first start."""
    instance: str = Field(default="main", pattern=r"^[a-z0-9][a-z0-9-]{0,58}$")
    """Name of this replica: its MQTT account is ``srv-<instance>``."""
    roles: tuple[ServerRole, ...] = ALL_ROLES
    """What this process does: ``api``, ``gateway``, ``engine``, ``converter``; more processes need PostgreSQL."""

    database_url: SecretStr | None = None
    """SQLAlchemy URL; None = SQLite ``edgefleet.db`` in the data folder."""
    database_url_file: Path | None = None
    """File that holds ``database_url``, so that its password is in no environment and no command line."""
    upgrade_schema_at_start: bool = True
    """A start upgrades the schema of an older version; False = it refuses, and `edgectl server upgrade-schema` does it before."""
    blob_url: str | None = None
    """``file:///…``, ``s3://…``, ``gs://…`` or ``az://…``, tested against imitations of the three clouds; None = the folder ``blobs/``."""
    blob_endpoint: str = Field(default="", max_length=500, pattern=r"^(https?://[^\s/]+(/[^\s?#]*)?)?$")
    """Address of a store outside its cloud: ``https://minio.example:9000``; "" = the cloud, or what the environment says."""
    blob_region: str = Field(default="", max_length=60)
    """Region of the bucket; "" = ``AWS_REGION`` of the environment, else us-east-1."""
    blob_virtual_host: bool = False
    """The bucket is part of the host name (``BUCKET.s3.example``) and not of the path."""
    blob_access_key_id: str = Field(default="", max_length=200)
    """Access key of S3, or storage account of Azure; "" = credentials of the environment, a web identity or the machine's role."""
    blob_secret_key: SecretStr | None = None
    """Secret of that access key, key of that account, or JSON key of a service account of Google Cloud; better in a file."""
    blob_secret_key_file: Path | None = None
    """File that holds it."""
    blob_encryption: Literal["", "AES256", "aws:kms", "aws:kms:dsse"] = ""
    """How S3 encrypts what is put: SSE-S3 (``AES256``) or SSE-KMS (``aws:kms``); "" = as the bucket says."""
    blob_kms_key: str = Field(default="", max_length=500)
    """Key of KMS for ``aws:kms``: its ARN; "" = the one of AWS for S3."""
    blob_ca_file: Path | None = None
    """Additional CA certificates (PEM) of the object store."""
    blob_allow_http: bool = False
    """``blob_endpoint`` may be plain http on another machine."""
    blob_spool_bytes: int = Field(default=1024 * MIB, ge=0)
    """Blobs of an object store that a process keeps on its disk, the last read ones; 0 = each read asks the store."""

    keys_passphrase: SecretStr | None = None
    """Passphrase of private keys in files, and PIN of keys in an HSM; better in a file. New key files are encrypted with it."""
    keys_passphrase_file: Path | None = None
    """File with that passphrase, e.g. a systemd credential."""
    signer_socket: Path | None = None
    """Socket of a signing process that is run apart (`edgectl server signer`); None = the server starts one as its child."""
    secrets_key: SecretStr | None = None
    """Sealing keys of secrets in the database, base64 of 32 bytes each, the first one seals; None = ``keys/secrets.key``."""
    secrets_key_file: Path | None = None
    """File that holds the sealing keys."""
    secrets_vault_url: str = Field(default="", max_length=500)
    """Secret of Vault whose field ``key`` holds the sealing keys: ``https://HOST:8200/v1/secret/data/edgefleet``; "" = not Vault."""
    secrets_vault_token: SecretStr | None = None
    """Token of Vault that may read that secret."""
    secrets_vault_token_file: Path | None = None
    """File that holds the token of Vault."""
    secrets_vault_ca_file: Path | None = None
    """CA certificates of Vault (PEM); None = those of the system."""

    api_host: str = "127.0.0.1"
    """Address of the API and the dashboard; any address except loopback needs TLS files or ``behind_proxy``."""
    api_port: int = Field(default=8080, ge=0, le=65535)
    """Port of the API and the dashboard; 0 = a free one, written to ``run/server.json``."""
    api_tls_cert: Path | None = None
    """Certificate of the API and the dashboard (PEM), with its chain."""
    api_tls_key: Path | None = None
    """Private key of that certificate (PEM)."""
    rate_limit_per_min: int = Field(default=6000, ge=0)
    """Requests per minute and operator token, bursts allowed; 0 = no limit. Each API process counts separately."""
    behind_proxy: bool = False
    """A reverse proxy terminates TLS: plain HTTP is then allowed on addresses other than loopback."""
    api_connections: int = Field(default=2048, ge=16, le=30_000)
    """Open connections of the API and the dashboard; above it, new ones take the place of those that have sent no request."""
    api_connections_per_address: int = Field(default=1280, ge=0, le=30_000)
    """Those of one address (IPv6: one /64); 0 = no cap of its own, as always with ``behind_proxy``: there it is for the proxy to set."""

    device_host: str = "127.0.0.1"
    """Address of the device listener, which is always HTTPS."""
    device_port: int = Field(default=8443, ge=0, le=65535)
    """Port of the device listener; 0 = a free one."""
    device_connections: int = Field(default=1024, ge=16, le=30_000)
    """Open connections of the device listener."""
    device_connections_per_address: int = Field(default=256, ge=0, le=30_000)
    """Those of one address (IPv6: one /64); 0 = no cap of its own, for a load balancer in front of the device listener."""
    public_host: str | None = None
    """Host name or address under which devices reach this server; None = the device listener's own host."""

    broker: str = "auto"
    """``auto``, ``embedded``, ``mosquitto`` or ``mqtts://host:port``."""
    broker_host: str = "127.0.0.1"
    """Address that the server's own broker listens on."""
    broker_port: int = Field(default=0, ge=0, le=65535)
    """Port of the server's own broker; 0 = a free one at each start, where enrolled devices cannot find it again: set it in production."""

    broker_folder: Path | None = None
    """Folder of the broker's files; None = ``broker/`` in the data folder. A broker of your own reads the revocation list there."""
    broker_memory_bytes: int = Field(default=0, ge=0)
    """Heap limit of a mosquitto that the server starts; 0 = 512 MiB and 256 KiB for each device at the start, for 1,000 at least."""
    device_messages_per_s: float = Field(default=50.0, ge=1, le=10_000)
    """Messages a second that one device may send for long; those of two minutes at once."""
    device_bytes_per_s: float = Field(default=256 * 1024, ge=16 * 1024, le=1024 * MIB)
    """Bytes a second that one device may send for long; those of two minutes at once."""
    device_daily_events: int = Field(default=100_000, ge=100, le=100_000_000)
    """Events of one device that are stored in a day (UTC)."""
    device_daily_windows: int = Field(default=120_000, ge=100, le=100_000_000)
    """Telemetry windows of one device that are stored in a day (UTC)."""
    device_daily_captures: int = Field(default=10_000, ge=10, le=10_000_000)
    """Captured records of one device that are stored in a day (UTC)."""
    device_daily_bytes: int = Field(default=64 * MIB, ge=MIB, le=1024 * 1024 * MIB)
    """Bytes of events, telemetry and captured records of one device that are stored in a day (UTC)."""
    backup_keep_days: int = Field(default=0, ge=0, le=3_660)
    """How long you keep backups of this server, for the receipts of erasures; 0 = not said."""
    prediction_pack_s: int = Field(default=900, ge=1, le=7 * 86_400)
    """How long parts of prediction logs wait in the database before a Parquet file takes them."""
    device_hourly_downlink_bytes: int = Field(default=32 * MIB, ge=16 * MIB, le=1024 * 1024 * MIB)
    """Bytes of blocks and metadata that one device may ask for in an hour, on top of four times the bundles that it was offered in it."""
    uplink_queue_bytes: int = Field(default=64 * MIB, ge=MIB, le=16 * 1024 * MIB)
    """Messages of devices that wait in memory to be stored; one device has at most a sixteenth of it."""

    enrol_approval: bool = False
    """Devices that enrol wait until an operator approves them, unless their claim token says otherwise."""
    enrol_pending_s: float = Field(default=72 * 3600.0, ge=1, le=90 * 86_400)
    """How long a device may wait for approval."""
    enrol_pending_max: int = Field(default=100, ge=1, le=100_000)
    """How many devices may wait for approval per claim token."""

    readmit_days: int = Field(default=30, ge=0, le=3650)
    """For so many days after the end of its certificate a device gets another by itself; later a person has to agree."""
    readmit_per_day: int = Field(default=100, ge=0, le=1_000_000)
    """So many devices come back by themselves within 24 hours; further ones wait for the next day, or for a person."""

    sealed_needs_tpm: bool = False
    """Keys of sealed models are given only to devices whose own key a TPM wraps, by the device's word."""

    drain_s: float = Field(default=0.0, ge=0, le=600)
    """After SIGTERM `/readyz` answers 503 for so long while all else still works: set what your load balancer needs to notice."""
    finish_s: float = Field(default=5.0, ge=0, le=600)
    """After that the listeners close, and requests and uploads that run get so long to end."""

    converter_workers: int = Field(default=1, ge=1, le=64)
    """Conversions that run at the same time."""
    min_free_bytes: int = Field(default=256 * MIB, ge=0)
    """Free space of the data folder's disk below which `/readyz` says that the server is not ready."""
    max_blob_bytes: int = Field(default=2048 * MIB, ge=MIB)
    """Largest file that can be uploaded."""
    job_timeout_s: float = Field(default=1800.0, gt=0)
    """Time limit of one conversion."""
    job_memory_bytes: int = Field(default=8192 * MIB, ge=256 * MIB)
    """Address space limit of the conversion process."""
    job_output_bytes: int = Field(default=4096 * MIB, ge=MIB)
    """Largest file that the conversion process may write."""
    job_attempts: int = Field(default=3, ge=1, le=10)
    """How often a conversion is started before it counts as failed, in case its worker dies or the system kills its process."""
    converter_command: tuple[str, ...] | None = None
    """Command of the conversion process; None = this Python with ``-m edgefleet_converters.job``."""
    custom_metrics: tuple[str, ...] = ()
    """Metrics `pkg.mod:func` that publishers may use; they must be installed alongside the converter and run in its process."""
    allow_pickle: bool = False
    """Publishers may upload pickles, which are read in the sandbox. Reading one runs the code in it."""
    tools_dir: Path | None = None
    """Folder of tool environments (`edgectl tool install --tools`); None = ``<data folder>-tools``, next to it."""
    engine_tick_s: float = Field(default=2.0, gt=0)
    """How often rollouts are checked when nothing happens."""
    webhook_networks: tuple[str, ...] = ()
    """Private networks (``10.0.0.0/8``) with receivers of webhooks, gates or issuers of ID tokens; plain http is allowed only there."""
    webhook_ca_file: Path | None = None
    """Additional CA certificates (PEM) for webhook and gate receivers and issuers of ID tokens."""
    webhook_timeout_s: float = Field(default=10.0, gt=0, le=20)
    """Time limit of one webhook attempt."""
    webhook_give_up_s: float = Field(default=86_400.0, ge=1, le=30 * 86_400)
    """Time after which an undelivered message is dead; it can be redelivered by hand."""
    alert_every_s: float = Field(default=15.0, ge=0.2, le=3600)
    """How often the rules of alerts are evaluated."""
    drift_judged_every_s: float = Field(default=600.0, ge=1, le=86400)
    """How often the drift of a model is judged for alerts."""
    alert_wait_s: float = Field(default=30.0, ge=0, le=3600)
    """How long an alert waits for others of its group, so that they become one message."""
    dashboard_url: str = Field(default="", max_length=200)
    """Address of the dashboard for people, for links in messages: ``https://fleet.example``; "" = that of the API."""
    identity_providers: tuple[IdentityProvider, ...] = ()
    """Issuers by which people sign in (OpenID Connect): tables ``[[identity_providers]]``; they need ``dashboard_url``."""
    otlp_endpoint: str = Field(default="", max_length=200, pattern=r"^(https?://\S+)?$")
    """Base address of an OTLP collector: ``http://127.0.0.1:4318``; "" = none. Needs the extra ``otel``."""
    otlp_interval_s: float = Field(default=60.0, ge=0.1, le=3600)
    """How often figures are sent there."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    log_format: Literal["text", "json"] = "text"
    """``text``, or ``json``: one object a line with the field names of the Elastic Common Schema."""

    @field_validator("tenant")
    @classmethod
    def _tenant_is_a_topic_level(cls, value: str) -> str:
        try:
            return str(parse_tenant(value))
        except BadIdError as error:
            raise ValueError(str(error)) from error

    @field_validator("webhook_networks")
    @classmethod
    def _networks_are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parse_networks(value)
        return value

    @model_validator(mode="after")
    def _secrets_have_one_source(self) -> "ServerSettings":
        for name in secret_names():
            if getattr(self, name) is not None and getattr(self, f"{name}_file") is not None:
                raise ValueError(f"{name} and {name}_file are both set; keep one of them")
        return self

    @model_validator(mode="after")
    def _object_store_is_plausible(self) -> "ServerSettings":
        address = urlsplit(self.blob_endpoint)
        if address.scheme == "http" and address.hostname not in LOOPBACK and not self.blob_allow_http:
            raise ValueError("blob_endpoint is plain http on another machine; use https://, or set blob_allow_http")
        if self.blob_kms_key and not self.blob_encryption.startswith("aws:kms"):
            raise ValueError("blob_kms_key needs blob_encryption aws:kms")
        return self

    @model_validator(mode="after")
    def _providers_can_lead_back(self) -> "ServerSettings":
        check_providers(self.identity_providers)
        address = urlsplit(self.dashboard_url)
        is_near = address.scheme == "http" and address.hostname in LOOPBACK
        if self.identity_providers and not (address.hostname and (address.scheme == "https" or is_near)):
            raise ValueError(
                "identity_providers need dashboard_url, the https:// address that people use: issuers lead browsers back to it"
            )
        return self

    def client_secret(self, provider: IdentityProvider) -> str | None:
        """Return the client secret of an identity provider, None for a public client. Read from its file each time.

        Raises SettingsError when the file cannot be read or is empty.
        """
        value = provider.client_secret
        if value is not None:
            return value.get_secret_value()
        name = provider_secret(provider)
        path = provider.client_secret_file or credential_file(f"edgefleet.{name}")
        return None if path is None else text_of(path, f"the identity provider {provider.name}", "client_secret_file")

    def secret(self, name: str) -> str | None:
        """Return a secret setting: its value, else the text of the file `NAME_file`, else of the systemd credential `edgefleet.NAME`.

        Raises SettingsError when the file cannot be read or is empty: nothing else is taken in its place.
        """
        value: SecretStr | None = getattr(self, name)
        if value is not None:
            return value.get_secret_value()
        path = getattr(self, f"{name}_file") or credential_file(f"edgefleet.{name}")
        if path is None:
            return None
        return text_of(path, f"the setting {name}", f"{name}_file")

    @property
    def database(self) -> str:
        """The database URL in force. Raises SettingsError when its file cannot be read."""
        return self.secret("database_url") or f"sqlite:///{self.data_dir / 'edgefleet.db'}"

    @property
    def keys_dir(self) -> Path:
        """Folder of the private keys (0700)."""
        return self.data_dir / "keys"

    @property
    def own_signer_socket(self) -> Path:
        """Socket of the signing process that this server starts."""
        return self.run_dir / f"signer-{self.instance}.sock"

    @property
    def keys_secret(self) -> str | None:
        """The passphrase of keys as it was given, None when it is in a file or nowhere."""
        return self.keys_passphrase.get_secret_value() if self.keys_passphrase is not None else None

    @property
    def blobs_dir(self) -> Path:
        """Folder of the local blob store."""
        return self.data_dir / "blobs"

    @property
    def broker_dir(self) -> Path:
        """Folder of the broker's generated configuration."""
        return self.broker_folder or self.data_dir / "broker"

    @property
    def agent_packages_dir(self) -> Path:
        """Folder of the agent's packages of an earlier version; they are taken into the database at the next start (ADR 0168)."""
        return self.data_dir / "agent-packages"

    @property
    def run_dir(self) -> Path:
        """Folder of what only a running server needs (ports, temporary files)."""
        return self.data_dir / "run"

    @property
    def tools_folder(self) -> Path:
        """The folder of tool environments in force: next to the data folder, so that its backup does not carry them."""
        own = self.data_dir.absolute()
        return self.tools_dir or own.with_name(f"{own.name}-tools")

    @property
    def dashboard_address(self) -> str:
        """The address of the dashboard for people, without a slash at the end."""
        if self.dashboard_url:
            return self.dashboard_url.rstrip("/")
        scheme = "http" if self.api_tls_cert is None else "https"
        host = f"[{self.api_host}]" if ":" in self.api_host else self.api_host
        return f"{scheme}://{host}:{self.api_port}"

    @property
    def device_public_host(self) -> str:
        """The host that devices connect to."""
        return self.public_host or self.device_host

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, files, credentials."""
        given: Given = read_sources(Path(init_settings()["data_dir"]), settings_cls.model_fields)
        file = _FileSource(settings_cls, given.file)
        # half of the time of reading settings is looking for each among texts, of which there are mostly none
        above = [_texts(settings_cls, given.environment)] if given.environment else []
        below = [_texts(settings_cls, given.credentials)] if given.credentials else []
        return init_settings, *above, file, *below


LISTS = frozenset({"roles", "custom_metrics", "webhook_networks"})
"""Lists of words, which may be written with commas in the environment, in a file of one value and in a credential."""


def secret_names() -> list[str]:
    """Return the names of all settings that are secrets. Each has a twin `NAME_file`."""
    return [name for name, field in ServerSettings.model_fields.items() if field.annotation == SecretStr | None]


def provider_secret(provider: IdentityProvider) -> str:
    """Return what the client secret of an identity provider is called, as a systemd credential behind ``edgefleet.``."""
    return f"client_secret.{provider.name}"


class _FileSource(PydanticBaseSettingsSource):
    """A table of values as they are."""

    def __init__(self, settings_cls: type[BaseSettings], table: dict[str, Any]) -> None:
        super().__init__(settings_cls)
        self._table = table

    def get_field_value(self, field: object, field_name: str) -> tuple[Any, str, bool]:
        """Unused: the whole table is returned by ``__call__``."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the table."""
        return self._table


def _texts(settings_cls: type[BaseSettings], given: dict[str, str]) -> PydanticBaseSettingsSource:
    """Return a source of texts that are read as those of the environment are."""
    source = EnvSettingsSource(settings_cls)
    source.env_vars = {f"{ENVIRONMENT}{name}".lower(): _listed(name, text) for name, text in given.items()}
    return source


def _listed(name: str, text: str) -> str:
    """Return the text of a list of words as JSON, which it may be already."""
    if name not in LISTS or text.lstrip().startswith("["):
        return text
    return json.dumps([word.strip() for word in text.split(",") if word.strip()])


def explain(settings: ServerSettings, flags: dict[str, object]) -> dict[str, Origin]:
    """Return where each setting in force comes from. flags: the arguments that were given, None for one that was not."""
    names = ServerSettings.model_fields
    origins = read_sources(settings.data_dir, names).origins
    for name in secret_names():  # a value or its file wins over the credential, wherever they are
        twin = getattr(settings, f"{name}_file")
        if twin is not None and f"{name}_file" in origins:
            origins[name] = Origin(origins[f"{name}_file"].source, f"{origins[f'{name}_file'].where} ({twin})")
    origins |= {name: Origin(Source.FLAG, name) for name, value in flags.items() if value is not None}
    return {name: origins.get(name, Origin(Source.DEFAULT, "")) for name in names} | {
        "data_dir": Origin(Source.FLAG, "--data")
    }


def load_settings(data_dir: Path, **overrides: object) -> ServerSettings:
    """Return the settings of a data folder.

    ``overrides`` are arguments of the command; None means "not given". Raises SettingsError naming every bad field.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return ServerSettings(data_dir=data_dir, **given)  # type: ignore[arg-type]
    except UnreadableTextError as error:
        named = re.search(r'field "(\w+)"', str(error))
        name = named[1] if named else ""
        where = read_sources(data_dir, ServerSettings.model_fields).origins.get(name)
        raise SettingsError(
            f"these settings cannot be used: {name}: not valid JSON{f' in {where.where}' if where else ''}",
            next_step="write a list or a table as JSON; a list of words may also have commas: api,engine",
        ) from None
    except ValidationError as error:
        origins = read_sources(data_dir, ServerSettings.model_fields).origins
        wrong = "; ".join(
            _in_words(e["loc"], e["type"], e["msg"], origins, given) for e in error.errors(include_input=False)
        )
        raise SettingsError(
            f"these settings cannot be used: {wrong}",
            next_step="correct them in server.toml, the EDGEFLEET_SERVER_ environment or the command",
        ) from error


def _in_words(
    loc: tuple[int | str, ...], kind: str, message: str, origins: dict[str, Origin], flags: dict[str, object]
) -> str:
    """Return a refusal of one setting: its name, what is wrong, where it stands."""
    name = str(loc[0]) if loc else ""
    where = f" ({origins[name].where})" if name in origins and name not in flags else ""
    if kind == "extra_forbidden" and len(loc) == 1:
        return f"{name}: there is no such setting{did_you_mean(name, ServerSettings.model_fields)}{where}"
    return f"{'.'.join(map(str, loc))}: {message}{where}"
