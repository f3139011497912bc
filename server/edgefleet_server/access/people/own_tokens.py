"""Tokens that people make for themselves. Thread-safe; calls block.

- At most what both the caller and the person hold; where nothing less is asked for, all of that.
- It belongs to the token that it was made with, or to the password: it ends when that is revoked, and a token never makes one that outlives
  it. So a stolen token cannot be turned into a longer one, nor into one that stays when the stolen one is revoked.
- Such a token makes no further ones, and ends no other than itself.
- A service makes none: an admin, or a trusted pipeline, is who gives it tokens.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final, Protocol

from edgefleet_protocol.clock import Clock
from edgefleet_server.access import store
from edgefleet_server.access.errors import BadTokenRequestError, ForbiddenError, UnknownTokenError
from edgefleet_server.access.grants.rules import excess, is_within
from edgefleet_server.access.model import Grant, NewToken, Owner, PersonKind, Principal, Role, TokenView
from edgefleet_server.access.people import store as people_store
from edgefleet_server.access.people.model import end_of_token
from edgefleet_server.access.people.service import PeopleBook
from edgefleet_server.access.tables import TokenRow
from edgefleet_server.db.database import Database

MAX_OWN: Final = 20
"""Tokens in force that were made with one token."""


class TokenMaker(Protocol):
    """What makes and revokes tokens."""

    people: PeopleBook

    def issue_own(
        self, name: str, roles: Collection[Role], owner: Owner, ends: datetime, made_with: str, scoped: Sequence[Grant]
    ) -> NewToken:
        """Make a token of a person."""
        ...

    def token(self, token_id: str) -> TokenView:
        """Return a token. Raises UnknownTokenError."""
        ...

    def revoke_token(self, token_id: str) -> TokenView:
        """Make a token useless at once. Raises UnknownTokenError."""
        ...


class OwnTokens:
    """Makes, lists and revokes tokens of the person who asks."""

    def __init__(self, db: Database, clock: Clock, access: TokenMaker) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock
        self._access = access

    def create(self, caller: Principal, name: str, wanted: Collection[Grant], expires_at: datetime | None) -> NewToken:
        """Make a token of the caller; its text is returned this once. wanted: none = all that the caller may.

        expires_at: None = in 90 days, or with the caller's token if that ends sooner.
        Raises ForbiddenError, BadTokenRequestError, BadGrantError.
        """
        with self._db.session() as session:
            _check_maker(caller, store.find_token(session, caller.id))
            owner = self._access.people.owner_of_new_token(name, caller.person, caller.name)  # disabling them waits
            _check_maker(
                caller, store.find_token(session, caller.id, lock=True)
            )  # revoking it waits, or has been before
            if store.count_made_with(session, caller.id, self._clock.now()) >= MAX_OWN:
                raise BadTokenRequestError(
                    f"{caller.name} has {MAX_OWN} tokens of their own",
                    next_step="revoke one: `edgectl token list --mine`",
                )
            grants = tuple(wanted) or _all_of(caller)
            if (beyond := excess(grants, caller.grants)) is not None:
                raise BadTokenRequestError(
                    f"you have: {caller.said()}; the token would have {beyond}", next_step="ask for less"
                )
            if not grants:
                raise BadTokenRequestError(
                    f"you have: {caller.said()}; that is no role for a token", next_step="ask an admin to grant you one"
                )
            self._access.people.check_token(owner, grants)
            roles = [one.role for one in grants if one.scope.is_whole]
            scoped = [one for one in grants if not one.scope.is_whole]
            return self._access.issue_own(name, roles, owner, self._end(caller, expires_at), caller.id, scoped)

    def is_maker(self, caller: Principal) -> bool:
        """Return whether a caller may make tokens, and end those of before."""
        with self._db.read() as session:
            try:
                _check_maker(caller, store.find_token(session, caller.id))
            except ForbiddenError:
                return False
        return True

    def tokens(self, caller: Principal) -> list[TokenView]:
        """Return the caller's tokens in force, whoever made them."""
        return self._in_force(caller) if caller.person else []

    def token(self, caller: Principal, token_id: str) -> TokenView:
        """Return a token of the caller in force. Raises UnknownTokenError, also for one of somebody else."""
        found = next((one for one in self.tokens(caller) if one.id == token_id), None)
        if found is None:
            raise UnknownTokenError(
                f"you have no token {token_id!r}", next_step="`edgectl token list --mine` shows all"
            )
        return found

    def revoke(self, caller: Principal, token_id: str) -> TokenView:
        """Make a token of the caller useless at once. Raises as `token`, and ForbiddenError.

        A service's, and one that its person made, ends itself only: who steals a program's cannot end the password of its person.
        """
        self.token(caller, token_id)
        if token_id != caller.id and not self.is_maker(caller):
            raise ForbiddenError(
                f"{caller.name} cannot end this token: a program's, and one that its person made, end no other",
                next_step="sign in with the password, or a token that an admin made; or ask an admin",
            )
        return self._access.revoke_token(token_id)

    def _in_force(self, caller: Principal) -> list[TokenView]:
        with self._db.read() as session:
            ids = [one.id for one in people_store.tokens_of(session, caller.person, self._clock.now())]
        return [self._access.token(one) for one in ids]

    def _end(self, caller: Principal, wanted: datetime | None) -> datetime:
        ends = end_of_token(PersonKind.PERSON, wanted, self._clock.now(), is_endless=False)
        assert ends is not None
        if caller.expires_at is None or ends <= caller.expires_at:
            return ends
        if wanted is None:
            return caller.expires_at
        raise BadTokenRequestError(
            f"the token that makes it ends at {caller.expires_at:%Y-%m-%dT%H:%M:%SZ}, and none outlives that one",
            next_step="give an earlier time, sign in with a password, or ask an admin",
        )


def _all_of(caller: Principal) -> tuple[Grant, ...]:
    """Return everything that a caller may: what lies in both the token's and the owner's grants."""
    limits = caller.limits
    if limits is None:
        return caller.grants
    both = [one for one in caller.grants if is_within(one, limits)] + [
        one for one in limits if is_within(one, caller.grants)
    ]
    return tuple(dict.fromkeys(both))


def _check_maker(caller: Principal, row: TokenRow | None) -> None:
    """Raise ForbiddenError for a caller whose token makes none."""
    if caller.kind is not PersonKind.PERSON or not caller.person:
        raise _refused(caller, "a program gets its tokens from an admin")
    if row is None or row.revoked_at is not None:
        raise _refused(caller, "the one that it came with was revoked")
    if row.made_with:
        raise _refused(caller, "a token that its person made makes no further ones")


def _refused(caller: Principal, why: str) -> ForbiddenError:
    return ForbiddenError(
        f"{caller.name} cannot make tokens: {why}",
        next_step="sign in as a person, by a password or a token that an admin made (`edgectl token create --name NAME --role ROLE`)",
    )
