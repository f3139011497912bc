"""Where pages lead: the navigation, and what else the search box offers by its name or by other words for it.

A user is offered only what the user's roles allow; a test opens every place with the role that it names.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from edgefleet_server.access.model import Role


@dataclass(frozen=True, slots=True)
class Place:
    """One place: a page, a part of one, or where to begin to do something.

    role: needed to open it. words: other words for it, in small letters. tab: the name by which a page marks itself as the current one.
    kind: what it is in a word. key: opens it from any page when it is typed after "g".
    """

    path: str
    label: str
    role: Role = Role.VIEWER
    words: str = ""
    tab: str = ""
    kind: str = "page"
    key: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One of the groups of pages: its name and icon, and its pages, of which the first stands for it."""

    label: str
    icon: str
    places: tuple[Place, ...]


SECTIONS: Final = (
    Section("Overview", "home", (Place("/", "Overview", words="home start status", tab="overview", key="o"),)),
    Section(
        "Fleet",
        "fleet",
        (
            Place("/devices", "Devices", words="fleet list machines", tab="devices", key="d"),
            Place("/groups", "Groups", words="selectors", tab="groups", key="g"),
            Place(
                "/enrolment", "Enrolment", words="enrollment pending waiting approve claim", tab="enrolment", key="n"
            ),
            Place("/profiles", "Hardware profiles", words="boards targets", tab="profiles", key="p"),
        ),
    ),
    Section(
        "Models",
        "cube",
        (
            Place("/models", "Models", words="releases versions registry aliases", tab="models", key="m"),
            Place("/bundles", "Bundles & keys", words="signatures tuf certificates", tab="bundles", key="b"),
        ),
    ),
    Section(
        "Deliver",
        "send",
        (
            Place("/rollouts", "Rollouts", words="deployments stages", tab="rollouts", key="r"),
            Place("/experiments", "Experiments", words="shadow a/b split compare", tab="experiments", key="x"),
        ),
    ),
    Section(
        "Observe",
        "pulse",
        (
            Place("/alerts", "Alerts", words="firing silent offline warnings acknowledge", tab="alerts", key="a"),
            Place("/drift", "Drift", words="drifting signals sites psi inputs moved", tab="drift", key="i"),
            Place("/slos", "Objectives", words="slo service level error budget burn rate", tab="slos", key="j"),
            Place(
                "/fleet", "Figures", words="metrics charts requests latency errors over time", tab="figures", key="f"
            ),
            Place("/events", "Events", words="log history", tab="events", key="e"),
            Place("/retraining", "Retraining", words="triggers retrain loop training", tab="retraining", key="l"),
            Place(
                "/cost", "Cost", words="costs money prices bytes traffic energy storage savings", tab="cost", key="c"
            ),
        ),
    ),
)
"""The five groups, as the header and the bar of phones show them."""
ADMIN: Final = Section(
    "Admin",
    "gear",
    (
        Place("/settings", "Settings", words="server readiness preferences", tab="settings", key="s"),
        Place("/audit", "Audit", Role.AUDITOR, "trail who changed export", "audit", key="t"),
    ),
)
"""What stands in the corner."""
NAVIGATION: Final = tuple(place for section in (*SECTIONS, ADMIN) for place in section.places)
PARTS: Final = (
    Place("/settings/preferences", "Preferences", words="theme colours time zone density sign in"),
    Place("/settings/account", "Your account", words="password change sign out other browsers profile"),
    Place("/settings/people", "People", Role.ADMIN, "users accounts services owners add disable access"),
    Place("/settings/tokens", "Tokens", Role.ADMIN, "make new create api access user role revoke"),
    Place(
        "/settings/identities",
        "Identities",
        Role.ADMIN,
        "oidc openid sso sign-in provider people link keycloak entra google",
    ),
    Place("/settings/pipelines", "Trusted pipelines", Role.ADMIN, "ci github gitlab keyless oidc publisher secret"),
    Place("/settings/webhooks", "Webhooks", Role.OPERATOR, "make new create events deliveries redeliver"),
    Place("/data-sets", "Data sets", words="captured records export purge erased person training"),
    Place("/alerts/rules", "Alert rules", words="thresholds severity"),
    Place("/alerts/silences", "Silences", words="maintenance windows mute"),
    Place("/settings/contacts", "Contact points", Role.OPERATOR, "mail slack teams pagerduty ntfy messages"),
    Place("/settings/place", "Server's place", words="move address host port machine"),
    Place("/settings/device-ca", "Device CA", words="rotate certificate authority stolen"),
    Place("/settings/protection", "Protection rules", words="approval break glass rule selector"),
    Place("/settings/policies", "Release policies", words="owner licence card hold-out rule governance"),
    Place("/settings/receivers", "Alert receivers", Role.OPERATOR, "alertmanager prometheus"),
    Place("/bundles#roles", "Signing keys", words="who may sign tuf threshold rotate expiry"),
    Place("/bundles#authority", "Device certificates", words="ca authority"),
    Place("/bundles#capture-key", "Capture key", words="seal inputs"),
    Place("/enrolment#tokens", "Claim tokens", words="enrolment enrollment revoke"),
    Place("/devices?selector=status%3Doffline", "Offline devices", words="away unreachable that are"),
    Place("/views", "Saved views", words="bookmarks own names"),
    Place("/shortcuts", "Keyboard shortcuts", words="keys help ?"),
    Place("/styleguide", "Style guide", words="components design tokens colours"),
    Place("/help/", "Help", words="documentation docs manual guides tutorials reference how do I"),
    Place("/glossary", "Glossary", words="terms words meaning definitions help"),
    Place("/settings#checks", "Readiness of the server", words="health checks doctor"),
)
"""What lies under a page of the navigation."""
ACTIONS: Final = (
    Place("/rollouts/new", "New rollout", Role.OPERATOR, "create start deploy release canary stages", kind="action"),
    Place(
        "/publish", "Publish a model", Role.PUBLISHER, "upload new release version convert onnx tflite", kind="action"
    ),
    Place("/rollouts/undo", "Undo a release", Role.OPERATOR, "roll back previous revert", kind="action"),
    Place("/enrolment#new", "Enrol a device", Role.OPERATOR, "enroll new claim token qr add", kind="action"),
    Place("/groups#new", "New group", Role.OPERATOR, "make create selector", kind="action"),
    Place(
        "/settings/contacts#new-title",
        "New contact point",
        Role.ADMIN,
        "mail slack teams pagerduty ntfy",
        kind="action",
    ),
    Place("/retraining/new", "New trigger", Role.PUBLISHER, "retrain drift schedule training", kind="action"),
    Place("/retraining/start", "Retrain a model", Role.PUBLISHER, "start training trigger now", kind="action"),
    Place("/slos/new", "New objective", Role.OPERATOR, "slo service level openslo", kind="action"),
    Place("/alerts/silences#new-title", "New silence", Role.OPERATOR, "mute quiet alerts", kind="action"),
    Place(
        "/settings/receivers#new-title",
        "New alert receiver",
        Role.ADMIN,
        "make create alertmanager prometheus",
        kind="action",
    ),
    Place("/preferences?theme=dark", "Dark colours", words="theme colors mode night", kind="action"),
    Place("/preferences?theme=light", "Light colours", words="theme colors mode day", kind="action"),
    Place(
        "/preferences?theme=auto",
        "System colours",
        words="theme colors mode auto as the system has them",
        kind="action",
    ),
    Place("/preferences?density=compact", "Compact rows", words="density dense small tight", kind="action"),
    Place("/preferences?density=comfortable", "Comfortable rows", words="density roomy normal", kind="action"),
    Place("/preferences?zone=local", "Times in my time zone", words="timezone local clock", kind="action"),
    Place("/preferences?zone=utc", "Times in UTC", words="timezone zone clock", kind="action"),
)
_FAR: Final = 2


def allowed(sections: Iterable[Section], may: Callable[[Role], bool]) -> list[Section]:
    """Return the groups with the pages that a user may open; a group without any is left out."""
    found = [Section(one.label, one.icon, tuple(place for place in one.places if may(place.role))) for one in sections]
    return [one for one in found if one.places]


def section_of(sections: Iterable[Section], tab: str) -> Section | None:
    """Return the group that a page belongs to, by the name by which the page marks itself."""
    return next((one for one in sections if tab and any(place.tab == tab for place in one.places)), None)


def offered(places: Iterable[Place], wanted: str, may: Callable[[Role], bool]) -> tuple[list[Place], list[Place]]:
    """Return the places that a text may mean: those whose label has each of its words at the beginning of a word, then the others.

    These have every word anywhere in their label or other words. Best first. may: whether the user has a role; other places are left out.
    """
    words = wanted.lower().split()
    fits = [
        one for one in places if may(one.role) and all(word in f"{one.label.lower()} {one.words}" for word in words)
    ]
    ranked = sorted(((_distance(one.label.lower(), words), n) for n, one in enumerate(fits)))
    return [fits[n] for far, n in ranked if far < _FAR], [fits[n] for far, n in ranked if far >= _FAR]


def _distance(label: str, words: list[str]) -> int:
    """Return 0 for a label that begins with words, 1 if each begins a word of it, 2 if it has them all, else 3."""
    if label.startswith(" ".join(words)):
        return 0
    if all(f" {word}" in f" {label}" for word in words):
        return 1
    return _FAR if all(word in label for word in words) else _FAR + 1
