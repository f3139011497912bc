"""Real services on one database, a clock that tests turn, and a device that has a key."""

import datetime as dt
import io
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgefleet_protocol.blocks import LEAF_BYTES, leaf_index
from edgefleet_protocol.bundle import open_bundle
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import ModelName, ProfileName, ReleaseRef, Version, target_path
from edgefleet_protocol.sealed_model import KEY_BYTES
from edgefleet_server.composition.fleet_container import build_fleet
from edgefleet_server.composition.judge_container import build_judges
from edgefleet_server.db.database import Database
from edgefleet_server.encryption.key_sources import source_of
from edgefleet_server.encryption.model_sealer import sealed_bundle
from edgefleet_server.encryption.service import Sealer
from edgefleet_server.outbound.address_policy import parse_networks
from edgefleet_server.outbound.http_post import HttpPoster
from edgefleet_server.registry.blobs import open_blob_store
from edgefleet_server.registry.model import BundleView, JobSpec, JobView, Publication, SourceFile
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.settings import ServerSettings, load_settings
from edgefleet_server.signing.service import SigningService
from edgefleet_server.telemetry.costs import CostService
from edgefleet_server.telemetry.ground_truth.truth_intake import TruthIntake
from edgefleet_server.telemetry.service import TelemetryService
from edgefleet_server.telemetry.signals.references import BundleReferences
from edgefleet_server.telemetry.signals.signal_intake import DriftIntake
from edgefleet_server.webhook.service import WebhookService
from tests.support import databases

PROFILE = "generic-x86_64-ort"
FACTS: dict[str, Any] = {
    "arch": "x86_64",
    "board": "",
    "ram_mb": 2048,
    "runtimes": [{"name": "onnxruntime", "version": "1.32.0"}],
    "python": "3.11",
    "glibc": "2.36",
    "agent_version": "0.1.0",
    "hostname": "bench",
}
START = dt.datetime(2026, 11, 25, 12, 0, tzinfo=dt.UTC)


class TurnedClock:
    """A clock that stands until it is turned."""

    def __init__(self, now: dt.datetime = START) -> None:
        self.time = now

    def now(self) -> dt.datetime:
        """Return the set time."""
        return self.time

    def monotonic_s(self) -> float:
        """Return seconds of the set time."""
        return self.time.timestamp()

    def turn(self, **delta: float) -> None:
        """Move the time on."""
        self.time += dt.timedelta(**delta)


class NoJobs:
    """A conversion queue that nobody works on."""

    def __init__(self) -> None:
        self.jobs: dict[ReleaseRef, list[JobView]] = {}

    def enqueue(self, spec: JobSpec) -> None:
        """Note the job."""
        job = JobView(secrets.token_hex(4), spec.profile, "queued", "", "", 0.0)
        self.jobs.setdefault(spec.ref, []).append(job)

    def retry_failed(self, ref: ReleaseRef) -> int:
        """Nothing fails here."""
        return 0

    def cancel(self, ref: ReleaseRef, by: str) -> int:
        """Nothing waits here."""
        return 0

    def end_search(self, ref: ReleaseRef) -> int:
        """Nothing is searched here."""
        return 0

    def forget(self, ref: ReleaseRef) -> None:
        """Do nothing."""

    def reports(self) -> Sequence[str]:
        """Nothing is reported here."""
        return ()

    def seconds_by_model(self, since: dt.datetime, until: dt.datetime) -> Mapping[str, float]:
        """Nothing is converted here."""
        return {}

    def jobs_of(self, refs: Sequence[ReleaseRef]) -> Mapping[ReleaseRef, list[JobView]]:
        """Return the noted jobs."""
        return {ref: self.jobs.get(ref, []) for ref in refs}


class House:
    """The services, wired as `parts.build_parts` does."""

    def __init__(self, url: str, folder: Path, clock: Any, **settings: Any) -> None:
        self.clock = clock
        self.folder = folder
        self.settings: ServerSettings = load_settings(folder, database_url=url, device_port=8443, **settings)
        self.db = Database(url)
        self.signing = SigningService(self.db, folder / "keys", clock)
        databases.begin(self.db, self.signing, folder / "keys", clock.now())
        self.jobs = NoJobs()
        self.registry = RegistryService(
            self.db,
            open_blob_store(self.settings),
            clock,
            jobs=self.jobs,
            fleet_profiles=lambda: self.fleet.reader.profiles_in_use(),  # noqa: PLW0108  # fleet does not exist yet
        )
        self.signing.teams.bundles = self.registry.unsigned
        self.fleet = build_fleet(self.db, self.signing, self.registry, clock, self.settings)
        self.poster = HttpPoster(parse_networks(self.settings.webhook_networks), clock)
        self.webhooks = WebhookService(
            self.db,
            self.fleet.feed,
            self.poster,
            clock,
            self.settings,
            Sealer(self.db, source_of(self.settings), clock),
        )
        self.registry.fleet_key.open_with(self.webhooks.sealer)
        self.references = BundleReferences(self.registry)
        self.telemetry = TelemetryService(
            self.db, clock, DriftIntake(self.references), self.fleet.memberships.of, truths=TruthIntake(self.references)
        )
        self.truth, self.drift = build_judges(self.db, clock, self.fleet, self.registry, self.references)
        self.accuracy = self.truth.accuracy
        self.costs = CostService(self.db, clock, self.registry, self.fleet.reader.profiles_of)
        self.registry.forecast_with(self.costs.forecast)

    def release(
        self, ref: str, *, bundles: Mapping[str, bytes], profiles: Sequence[str] = (), seal: bool = False
    ) -> ReleaseRef:
        """Publish a release and sign the given bundles of it, by profile. seal: with their models sealed."""
        parsed = ReleaseRef.parse(ref)
        source = self.registry.put_blob_bytes(f"source of {ref}".encode())
        size = self.registry.blob_size(source)
        assert size is not None
        names = tuple(ProfileName(name) for name in (*bundles, *profiles))
        file = SourceFile("model.onnx", source, size)
        self.registry.publish(
            Publication(parsed, "file", (file,), names, (), {}, {"seal": True} if seal else {}), "test"
        )
        for profile, data in bundles.items():
            key = os.urandom(KEY_BYTES) if seal else b""
            stored = sealed_bundle(open_bundle(io.BytesIO(data)), key) if seal else data
            self.bundle(parsed.model, parsed.version, ProfileName(profile), stored, key=key)
        return parsed

    def bundle(
        self,
        model: ModelName,
        version: Version,
        profile: ProfileName,
        data: bytes,
        report: Mapping[str, Any] | None = None,
        key: bytes = b"",
    ) -> None:
        """Store and sign one bundle, as the conversion worker does. report: of its conversion; key: that its model is sealed with."""
        with self.db.session():
            sha256 = self.registry.put_blob_bytes(data)
            leaves = self.registry.put_blob_bytes(leaf_index(data))
            target = target_path(model, version, profile)
            custom = {
                "leaves": leaves,
                "leaf_bytes": LEAF_BYTES,
                "model": model,
                "version": version,
                "profile": profile,
            }
            is_unsigned = self.signing.is_of_a_team(model)
            if not is_unsigned:
                self.signing.add_target(target, len(data), sha256, custom)
            (self.registry.unsigned.add if is_unsigned else self.registry.accept_bundle)(
                self.registry.with_forecast(
                    BundleView(
                        ref=ReleaseRef(model, version),
                        profile=profile,
                        target=target,
                        sha256=sha256,
                        length=len(data),
                        leaves=leaves,
                        runtime="ort",
                        precision="fp32",
                        signed_at=self.clock.now(),
                        report=dict(report or {}),
                        sealed_key=self.registry.fleet_key.seal(key, sha256) if key else "",
                    )
                )
            )

    def device(self, facts: Mapping[str, Any] = FACTS, **claim: Any) -> "KeyedDevice":
        """Enrol a device with a claim of its own."""
        device = KeyedDevice()
        device.enrolment = self.fleet.enrolment.enroll(
            self.fleet.enrolment.create_claims(**claim)[0].token, device.csr(), facts
        )
        return device


class KeyedDevice:
    """A key, and what its owner can sign."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.enrolment: Any = None

    @property
    def id(self) -> Any:
        """Return the enrolled id."""
        return self.enrolment.device_id

    def csr(self, subject: str = "ignored") -> bytes:
        """Return a CSR with any subject."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(self.key, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.PEM)

    def fingerprint(self) -> str:
        """Return what people compare of the key, computed here on its own."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        digest = sha256_hex(self.key.public_key().public_bytes(serialization.Encoding.DER, form))
        return f"{digest[:4]}-{digest[4:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}"

    def key_pem(self) -> bytes:
        """Return the private key."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def token(self, now: dt.datetime, **claims: Any) -> str:
        """Return a device token; claims replace the right ones."""
        body = {
            "sub": self.id,
            "aud": self.enrolment.server_id,
            "exp": int(now.timestamp()) + 240,
            "jti": secrets.token_hex(16),
            **claims,
        }
        return jwt.encode({k: v for k, v in body.items() if v is not None}, self.key, algorithm="ES256")


def claim_body(token: str) -> dict[str, Any]:
    """Return the JSON in a claim token."""
    import base64

    body = token.removeprefix("efc1.")
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return found


def pinned(root: Mapping[str, Any]) -> str:
    """Return the digest of a root document as it came in JSON."""
    return sha256_hex(json.dumps(root, sort_keys=True, separators=(",", ":")).encode())
