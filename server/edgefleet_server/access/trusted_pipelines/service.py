"""Trusted pipelines: added, listed, removed by admins, and used by jobs of CI. Thread-safe; calls block.

A job shows an ID token of its CI and gets an operator token for 15 minutes, with the roles of the one rule that trusts it. Each ID token
works once. The operator token belongs to a service, so it never approves. Source: ADR 0126.
"""

import logging
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.access.errors import (
    BadIdTokenError,
    BadPipelineError,
    PipelineExistsError,
    TooManyRequestsError,
    UnknownPipelineError,
    UntrustedPipelineError,
    UsedIdTokenError,
)
from edgefleet_server.access.grants.rules import loaded, stored
from edgefleet_server.access.model import Grant, NewToken, Owner, Role
from edgefleet_server.access.openid.id_tokens import MAX_JTI_CHARS, IdTokens, end_of
from edgefleet_server.access.openid.issuer_keys import Fetch, IssuerKeys
from edgefleet_server.access.people.service import PeopleBook
from edgefleet_server.access.request_quota import Throttle
from edgefleet_server.access.tables import PipelineRow, PipelineTokenRow
from edgefleet_server.access.trusted_pipelines import store
from edgefleet_server.access.trusted_pipelines.model import (
    TOKEN_LIFE,
    PipelineRun,
    Provider,
    TrustedPipeline,
    checked,
    chosen,
    run_of,
    shortened,
)
from edgefleet_server.db.database import Database
from edgefleet_server.web.connection_budget import counted_address

_log = logging.getLogger(__name__)
TRIES_A_MINUTE: Final = 120
"""Of one address, whatever comes of them."""
MAX_PIPELINES: Final = 500


class TokenIssuer(Protocol):
    """What makes operator tokens."""

    people: PeopleBook

    def issue(
        self, name: str, roles: Collection[Role], owner: Owner, ends: datetime, by: str, scoped: Sequence[Grant] = ()
    ) -> NewToken:
        """Make a token of a service."""
        ...


class PipelineBook:
    """Keeps trusted pipelines, and exchanges ID tokens."""

    def __init__(self, db: Database, clock: Clock, access: TokenIssuer, fetch: Fetch, audience: str) -> None:
        """Wire the parts. fetch: reads documents of issuers; audience: the address of this server, which ID tokens must be for."""
        self._db = db
        self._clock = clock
        self._access = access
        self._keys = IssuerKeys(fetch, clock)
        self._tokens = IdTokens(self._keys, clock)
        self._throttle = Throttle(clock, TRIES_A_MINUTE)
        self.audience = audience

    def add(self, pipeline: TrustedPipeline) -> TrustedPipeline:
        """Trust a pipeline from now on. Raises BadPipelineError, BadGrantError, PipelineExistsError, UnknownPersonError."""
        checked(pipeline)
        row = PipelineRow(
            name=pipeline.name,
            provider=pipeline.provider.value,
            issuer=pipeline.issuer,
            repository=pipeline.repository,
            repository_id=pipeline.repository_id,
            ref=pipeline.ref,
            environment=pipeline.environment,
            workflow=pipeline.workflow,
            roles=sorted(set(pipeline.roles)),
            grants=stored(dict.fromkeys(pipeline.scoped)),
            created_at=self._clock.now(),
            created_by=pipeline.created_by[:120],
        )
        with self._db.session() as session:
            others = store.pipelines(session)
            if any(one.issuer == row.issuer and one.provider != row.provider for one in others):
                raise BadPipelineError(
                    f"{row.issuer} is of another provider in another rule", next_step="name the issuer's provider"
                )
            if len(others) >= MAX_PIPELINES:
                raise BadPipelineError(
                    f"there are {MAX_PIPELINES} trusted pipelines already", next_step="remove those that nobody uses"
                )
            self._access.people.check_grants(pipeline.scoped)
            self._access.people.service(pipeline.service, pipeline.created_by)
            if any(one.name == row.name for one in others) or not store.add(session, row):
                raise PipelineExistsError(
                    f"there is a trusted pipeline {pipeline.name!r} already",
                    next_step="choose another name, or remove that one",
                )
            return _view(row)

    def pipelines(self) -> list[TrustedPipeline]:
        """Return all trusted pipelines by name."""
        with self._db.read() as session:
            return [_view(row) for row in store.pipelines(session)]

    def pipeline(self, name: str) -> TrustedPipeline:
        """Return one trusted pipeline. Raises UnknownPipelineError."""
        with self._db.read() as session:
            row = store.find(session, name)
        if row is None:
            raise _unknown(name)
        return _view(row)

    def remove(self, name: str) -> None:
        """Trust a pipeline no longer; its operator tokens end at once. Raises UnknownPipelineError."""
        with self._db.session() as session:
            if store.find(session, name) is None:
                raise _unknown(name)
            store.delete_pipeline(session, name, self._clock.now())

    def exchange(self, id_token: str, pipeline: str) -> tuple[NewToken, TrustedPipeline]:
        """Return an operator token for an ID token, and the rule that trusts it. pipeline: only this one, "" = whichever it is.

        Raises BadIdTokenError, UsedIdTokenError, UntrustedPipelineError, IssuerUnavailableError, UnknownPersonError.
        """
        known = self.pipelines()
        issuers = frozenset(one.issuer for one in known)
        self._keys.forget_others(issuers)
        claims = self._tokens.claims(id_token, issuers, self.audience)
        jti = claims.get("jti")
        if not isinstance(jti, str) or not 1 <= len(jti) <= MAX_JTI_CHARS:
            raise BadIdTokenError(
                "the ID token is refused: it has no jti, so its use cannot be noted", next_step="use another issuer"
            )
        issuer = str(claims["iss"])
        rules = [one for one in known if one.issuer == issuer and pipeline in ("", one.name)]
        if not rules:
            raise _untrusted(f"there is no trusted pipeline {pipeline!r} of {issuer}")
        run = run_of(rules[0].provider, claims)  # all rules of an issuer are of one provider
        found, why = chosen(rules, run)
        if found is None:
            _log.warning("a pipeline is not trusted", extra={"repository": run.repository, "ref": run.ref, "why": why})
            raise _untrusted(why)
        return self._issue(found, run, sha256_hex(f"{issuer}\n{jti}".encode()), end_of(claims)), found

    def _issue(self, rule: TrustedPipeline, run: PipelineRun, digest: str, id_token_ends_s: float) -> NewToken:
        now = self._clock.now()
        ends = now + TOKEN_LIFE
        kept_until = max(ends, datetime.fromtimestamp(id_token_ends_s, UTC))
        with self._db.session() as session:
            store.forget_ended(session, now)
            if not store.use(session, rule.name, run.repository_id, now):
                raise _untrusted(f"{rule.name} is gone, or its repository has another id")
            owner = self._access.people.service(rule.service, rule.name)
            made = self._access.issue(
                shortened(f"{owner.name}@{run.ref}"),
                rule.roles,
                owner,
                ends,
                f"trusted pipeline {rule.name}"[:80],
                rule.scoped,
            )
            used = PipelineTokenRow(
                id_token_sha256=digest, pipeline=rule.name, token_id=made.view.id, ends_at=kept_until
            )
            if not store.add(session, used):
                raise UsedIdTokenError("this ID token was exchanged before")
        return made

    def take_turn(self, address: str) -> None:
        """Take one try of an address. Raises TooManyRequestsError."""
        try:
            self._throttle.take(counted_address(address))
        except TooManyRequestsError as error:
            raise TooManyRequestsError(
                f"more than {TRIES_A_MINUTE} ID tokens came from this address within a minute",
                next_step=f"try again in {error.retry_after_s} s",
                retry_after_s=error.retry_after_s,
            ) from error


def _view(row: PipelineRow) -> TrustedPipeline:
    return TrustedPipeline(
        name=row.name,
        provider=Provider(row.provider),
        issuer=row.issuer,
        repository=row.repository,
        repository_id=row.repository_id,
        ref=row.ref,
        environment=row.environment,
        workflow=row.workflow,
        roles=tuple(Role(role) for role in row.roles),
        created_at=row.created_at,
        created_by=row.created_by,
        last_used_at=row.last_used_at,
        scoped=loaded(row.grants),
    )


def _unknown(name: str) -> UnknownPipelineError:
    return UnknownPipelineError(
        f"there is no trusted pipeline {name!r}", next_step="`edgectl trusted-pipeline list` shows all"
    )


def _untrusted(why: str) -> UntrustedPipelineError:
    return UntrustedPipelineError(
        f"no trusted pipeline is this one: {why}",
        next_step="run the job that the rule names, or ask an admin to trust this one (`edgectl trusted-pipeline add --help`)",
    )
