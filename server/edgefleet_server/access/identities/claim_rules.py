"""What the claims of an ID token say about a person: who it is, whether they may come in, and which roles they get. Pure.

Rules:
1. Values of the groups claim are compared whole and exactly. What matches gives its grants, each with its own scope; nothing is added up.
2. An e-mail address counts only where the issuer says that it verified it, and only to keep people out: nobody is known by it.
3. A claim of another form than expected gives nothing.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from edgefleet_server.access.errors import IdentityRefusedError
from edgefleet_server.access.grants.grant_scope import Scope
from edgefleet_server.access.grants.rules import MAX_GRANTS, check_grant
from edgefleet_server.access.model import Grant, Role
from edgefleet_server.identity_provider import IdentityProvider

MAX_SUBJECT_CHARS: Final = 255
_SHOWN: Final = 60
_NO_TEXT: Final = re.compile(r"[^\w .,@+'-]+")


def grants_by_value(provider: IdentityProvider) -> dict[str, tuple[Grant, ...]]:
    """Return the grants of each value of the groups claim. Raises BadGrantError, BadIdError, ValueError for an unknown role."""
    found: dict[str, tuple[Grant, ...]] = {}
    for one in provider.roles:
        grant = Grant(Role(one.role), Scope(frozenset(one.models), frozenset(one.groups), frozenset(one.sites)))
        check_grant(grant)
        found[one.value] = (*found.get(one.value, ()), grant)
    return found


def groups_of(provider: IdentityProvider, claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the values of the groups claim; none where it is missing or of another form."""
    found: Any = claims.get(provider.groups_claim)
    if found is None:
        found = claims
        for part in provider.groups_claim.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        return frozenset({found})
    return frozenset(one for one in found if isinstance(one, str)) if isinstance(found, list) else frozenset()


def grants_of(provider: IdentityProvider, claims: Mapping[str, Any]) -> tuple[Grant, ...]:
    """Return the grants of a person's claims, in the order of the settings. Raises IdentityRefusedError when there are none."""
    groups = groups_of(provider, claims)
    by_value = grants_by_value(provider)
    given = tuple(dict.fromkeys(grant for value in by_value if value in groups for grant in by_value[value]))
    if not given:
        have = f"it named {len(groups)} groups" if groups else f"it sent no claim {provider.groups_claim!r} with groups"
        raise IdentityRefusedError(
            f"{provider.title} knows you, but none of your groups there has a role here ({have})",
            next_step="ask an admin of your identity provider for a group that has one, or an admin of this server to give yours a role",
        )
    if len(given) > MAX_GRANTS:
        raise IdentityRefusedError(
            f"your groups at {provider.title} give more than {MAX_GRANTS} roles",
            next_step="ask an admin to give fewer groups a role",
        )
    return given


def subject_of(claims: Mapping[str, Any]) -> str:
    """Return whom claims are about, "" where that cannot be used: it goes into the database, into lists and onto terminals as it is."""
    found = claims.get("sub")
    return found if isinstance(found, str) and len(found) <= MAX_SUBJECT_CHARS and found.isprintable() else ""


def refuse_unless_allowed(provider: IdentityProvider, claims: Mapping[str, Any]) -> None:
    """Raise IdentityRefusedError for a person, or a way of signing in, that the settings of the provider keep out."""
    if not (subject := subject_of(claims)):
        raise _refused(provider, "it says no `sub` that can be used", "ask the admin of the identity provider")
    if provider.subjects and subject not in provider.subjects:
        raise _refused(
            provider, "you are not on the list of this server", "ask an admin of this server to put your `sub` on it"
        )
    if provider.email_domains and not _is_in_domain(provider, claims):
        domains = ", ".join(provider.email_domains)
        raise _refused(
            provider,
            f"it verified no e-mail address of yours in {domains}",
            "sign in there with an account of that domain",
        )
    amr = claims.get("amr")
    methods = [one for one in amr if isinstance(one, str)] if isinstance(amr, list) else []
    if provider.acr and claims.get("acr") not in provider.acr:
        raise _refused(provider, f"it did not say that you signed in as {' or '.join(provider.acr)}", _STRONGER)
    if provider.amr and not set(provider.amr) & set(methods):
        raise _refused(provider, f"it did not say that you used {' or '.join(provider.amr)}", _STRONGER)


def shown_name(claims: Mapping[str, Any]) -> str:
    """Return what to call somebody, from claims that anybody may have chosen: for reading only."""
    for claim in ("preferred_username", "email", "name", "sub"):
        found = claims.get(claim)
        if isinstance(found, str) and (text := _NO_TEXT.sub(" ", found).strip()):
            return text[:_SHOWN]
    return "somebody"


def shown_email(claims: Mapping[str, Any]) -> str:
    """Return the e-mail address of the claims for reading, "" without one."""
    found = claims.get("email")
    return _NO_TEXT.sub(" ", found).strip()[:254] if isinstance(found, str) else ""


def _is_in_domain(provider: IdentityProvider, claims: Mapping[str, Any]) -> bool:
    email = claims.get("email")
    if claims.get("email_verified") is not True or not isinstance(email, str) or email.count("@") != 1:
        return False
    return email.rpartition("@")[2].lower() in {one.lower() for one in provider.email_domains}


_STRONGER: Final = "sign in there again, with the second factor that this server asks for"


def _refused(provider: IdentityProvider, why: str, next_step: str) -> IdentityRefusedError:
    return IdentityRefusedError(
        f"{provider.title} knows you, but this server does not let you in: {why}", next_step=next_step
    )
