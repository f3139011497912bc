"""The server's own proof that a release is bad: what a device says of a bundle, looked at again here.

1. `signature`: the stored bytes are hashed again and opened strictly, and TUF's client looks their digest up in the stored metadata.
   `golden`: the same, then the bundle's golden vectors are run in its profile's runtime, in a confined conversion child.
2. A proof says no only where a check failed. Where it could not be made (no such runtime here, a child that was ended, a store that is
   away, metadata that has expired) there is no proof at all: ProofNotMadeError.
3. The child runs an untrusted model and may lie for it. So a proof that says yes is no more than that; devices that are drawn confirm.
"""

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from edgefleet_profiles.profile import profile_to_dict
from edgefleet_protocol.bundle import BundleError, open_bundle
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.desired import DESIRED_TYPE
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_protocol.manifest import ManifestError
from edgefleet_protocol.messages import ErrorClass
from edgefleet_protocol.verify import verify_envelope
from edgefleet_server.conversion.errors import ProofNotMadeError
from edgefleet_server.conversion.model import SandboxLimits
from edgefleet_server.conversion.sandbox import Child, Converter, workspace
from edgefleet_server.encryption.model_sealer import plain_bundle
from edgefleet_server.registry.model import BundleView
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.signing.errors import RepositoryUnsoundError
from edgefleet_server.signing.service import SigningService

PROVED: Final = (ErrorClass.SIGNATURE, ErrorClass.GOLDEN)
"""Classes of failure that the server can look at itself."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a check of the server found. ok: nothing is wrong with the bundle. what: in words what was checked, or what failed."""

    ok: bool
    what: str
    checked_at: datetime


class _WrongError(Exception):
    """A check failed; the message says which, and how."""


class ReleaseProver:
    """Checks bundles for one process, one at a time. Thread-safe; calls block on disk, database and a child (`limits.wall_s`)."""

    def __init__(
        self,
        registry: RegistryService,
        signing: SigningService,
        clock: Clock,
        converter: Converter,
        limits: SandboxLimits,
        folder: Path,
    ) -> None:
        """Wire the parts. folder: of this process, made for each proof and removed after it."""
        self._registry = registry
        self._signing = signing
        self._clock = clock
        self._converter = converter
        self._limits = limits
        self._folder = folder
        self._stopping = threading.Event()
        self._turn = threading.Lock()

    def stop(self) -> None:
        """End what is being made, and make nothing any more."""
        self._stopping.set()

    def prove(
        self,
        ref: ReleaseRef,
        profile: ProfileName,
        sha256: Sha256,
        error_class: ErrorClass,
        envelope: bytes = b"",
    ) -> Proof:
        """Check a signed bundle for the class of failure that a device reports of it, `signature` or `golden`.

        envelope: the desired document that the device was sent, verified too; b"" leaves it out.
        Raises ProofNotMadeError when it could not be checked, which says nothing about the bundle.
        """
        if error_class not in PROVED:
            raise ProofNotMadeError(f"a failure of class {error_class} shows on devices only")
        try:
            what = self._checked(ref, profile, sha256, error_class, envelope)
        except _WrongError as error:
            return Proof(ok=False, what=str(error), checked_at=self._clock.now())
        except ProofNotMadeError:
            raise
        except EdgefleetError as error:
            raise ProofNotMadeError(f"{error.code}: {error.message}", next_step=error.next_step) from error
        except OSError as error:
            raise ProofNotMadeError(
                f"the server's own disk or memory failed: {error}",
                next_step="check free space and memory of the server",
            ) from error
        return Proof(ok=True, what=what, checked_at=self._clock.now())

    def _checked(
        self, ref: ReleaseRef, profile: ProfileName, sha256: Sha256, error_class: ErrorClass, envelope: bytes
    ) -> str:
        bundle = self._registry.bundle_for(ref, profile)
        if bundle is None or bundle.sha256 != sha256:
            raise ProofNotMadeError(f"{ref} for {profile} was never signed with the digest {sha256}")
        with self._turn, workspace(self._folder) as folder:
            path = folder / "data" / "bundle"
            self._check_bytes(bundle, path)
            self._check_metadata(bundle, envelope)
            if error_class is ErrorClass.SIGNATURE:
                return "the stored bytes, and the metadata that names them"
            return self._check_golden(bundle, folder, path)

    def _check_bytes(self, bundle: BundleView, path: Path) -> None:
        """Write the stored bytes to `path` and hold them against their digest and their own manifest."""
        stored = self._registry.stored_size(bundle.sha256)
        if stored is None:
            raise ProofNotMadeError(f"the blob store has no {bundle.sha256}")
        if stored != bundle.length:
            raise _WrongError(f"the stored bundle has {stored} bytes, {bundle.length} were signed")
        digest = hashlib.sha256()
        with path.open("xb") as file:
            for chunk in self._registry.blob_chunks(bundle.sha256, 0, bundle.length):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != bundle.sha256:
            raise _WrongError(f"the stored bundle has sha256 {digest.hexdigest()}, {bundle.sha256} was signed")
        try:
            with path.open("rb") as file:
                opened = open_bundle(file)
                opened.verify_members()
        except (BundleError, ManifestError) as error:
            raise _WrongError(f"the bundle is not valid ({error.code}): {error.message}") from error
        manifest = opened.manifest
        named = (manifest.model, manifest.version, manifest.profile)
        if named != (bundle.ref.model, bundle.ref.version, bundle.profile):
            raise _WrongError(f"the bundle says it is {'/'.join(named)}, it was signed as {bundle.target}")

    def _check_metadata(self, bundle: BundleView, envelope: bytes) -> None:
        try:
            found = self._signing.find_as_client(bundle.target)
        except RepositoryUnsoundError as error:
            raise _WrongError(error.message) from error
        target = found.target
        if target is None:
            raise _WrongError(f"nothing that is signed names {bundle.target}")
        if target.length != bundle.length or target.hashes.get("sha256") != bundle.sha256:
            raise _WrongError(
                f"{bundle.target} is signed with {target.length} bytes, sha256 {target.hashes.get('sha256')}; the release has "
                f"{bundle.length} bytes, sha256 {bundle.sha256}"
            )
        if not envelope:
            return
        try:
            verify_envelope(envelope, DESIRED_TYPE, found.keys, found.threshold)
        except EdgefleetError as error:
            raise _WrongError(f"the device's document does not verify ({error.code}): {error.message}") from error

    def _check_golden(self, bundle: BundleView, folder: Path, path: Path) -> str:
        if bundle.is_sealed:
            key = self._registry.fleet_key.open(bundle.sealed_key, bundle.sha256)
            with path.open("rb") as sealed:
                plain = plain_bundle(sealed, key)
            path = path.with_name("plain")
            path.write_bytes(plain)
        facts = profile_to_dict(self._registry.profile(bundle.profile))
        answers: list[Mapping[str, Any]] = []
        converter = self._converter
        child = Child(converter.command, folder, self._limits, self._clock, converter.tools_folder, converter.top)
        child.run({"v": 1, "golden": {"bundle": str(path), "profile": facts}}, answers.append, self._stopping.is_set)
        answer = answers[0] if len(answers) == 1 else {}
        ok, reason = answer.get("ok"), str(answer.get("reason", ""))[:1000]
        if answer.get("type") != "golden" or not isinstance(ok, bool):
            raise ProofNotMadeError("the converter did not answer the question; it may be older than this server")
        where = f"{str(answer.get('runtime'))[:40]} {str(answer.get('version'))[:40]}"
        if not ok:
            raise _WrongError(f"golden vectors do not hold in {where}: {reason}")
        return f"the stored bytes, the metadata that names them, and {answer.get('checked')} golden vectors in {where}"
