"""`edgectl publish`: a model in, one signed bundle a profile out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import ApiError, UsageError
from edgefleet_cli.core.selection import no_match
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply, reply_of
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.keys.offline_commands import PassphraseFiles
from edgefleet_cli.keys.team_commands import RootSha256
from edgefleet_cli.keys.team_signature import WithKeys
from edgefleet_cli.release.card_commands import put_card, read_card
from edgefleet_cli.release.commands import Keys
from edgefleet_cli.release.conversion import conversion_options as flags
from edgefleet_cli.release.deployment.render import note_skipped
from edgefleet_cli.release.downgrade import ask_or_warn
from edgefleet_cli.release.render import RELEASES, exit_code, is_over, show_result
from edgefleet_cli.release.team_release import UNSIGNED
from edgefleet_cli.rollout.render import next_steps, state_text
from edgefleet_cli.rollout.spec import ALL, parse_strategy, strategy_document
from edgefleet_cli.rollout.start import rollouts_of, warn_of_older

if TYPE_CHECKING:
    from edgefleet_cli.release.device_measurement import Measured

NOT_FOUND = 404
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the conversion, or return once it is queued.")]
To = Annotated[str | None, completion.selector_option("Devices to deploy to afterwards")]
MeasureOn = Annotated[
    list[str] | None,
    typer.Option("--measure-on", metavar="DEVICE", help="Measure the bundle on this device; repeatable."),
]
RegisteredName = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Name of the model; default: from the file or the mlflow: address."),
]
RegisteredVersion = Annotated[
    str | None,
    typer.Option(
        "--version",
        metavar="VERSION",
        help="Version of this release; default: from the mlflow: address or a file name like NAME-1.2.0.onnx.",
    ),
]
WriteBack = Annotated[
    bool, typer.Option("--write-back/--no-write-back", help="Write a tag to the registry the model came from.")
]
Seal = Annotated[
    bool, typer.Option("--seal", help="Encrypt the model, so that only devices that the release is for can read it.")
]
Parent = Annotated[
    str | None,
    typer.Option(
        "--parent",
        metavar="REF",
        help="Release that this one was made from, NAME@VERSION or NAME@ALIAS.",
        autocompletion=completion.releases,
    ),
]
OfRetraining = Annotated[
    str | None, typer.Option("--retraining", metavar="ID", help="Retraining that this release is the result of.")
]
CardFile = Annotated[
    str | None,
    typer.Option(
        "--card",
        metavar="FILE",
        help="Card file (YAML): owner, licence, use, limits; see docs/reference/model-card.md.",
    ),
]
How = Annotated[
    str,
    typer.Option(
        "--strategy",
        metavar="S",
        help="How to deploy: all (at once), or in stages: canary, rolling, blue-green, shadow, ab.",
    ),
]


@flags.converting
def publish(  # noqa: PLR0913 - the flags of the command
    ctx: typer.Context,
    model: flags.ModelArgument,
    name: RegisteredName = None,
    version: RegisteredVersion = None,
    *,
    asked: flags.Conversion,
    wait: Wait = True,
    to: To = None,
    strategy: How = "all",
    measure_on: MeasureOn = None,
    mlflow_url: flags.MlflowUrl = None,
    write_back: WriteBack = True,
    seal: Seal = False,
    parent: Parent = None,
    retraining: OfRetraining = None,
    card: CardFile = None,
    key: Keys = None,
    root_sha256: RootSha256 = "",
    passphrase_file: PassphraseFiles = None,
) -> None:
    """Convert a model for every profile, validate and sign it, with --key for the team of the model.

    Exit codes: 0 all signed or waiting for more of the team, 1 some refused, 6 version exists with other content.
    """
    session = Session.of(ctx)
    stated = None if card is None else read_card(card)  # before anything is uploaded
    chosen_strategy = parse_strategy(strategy)
    no_wait = not wait
    _refuse_early_measurement(no_wait, measure_on)
    if no_wait and key:
        raise UsageError(
            "--key does not go with --no-wait",
            why="there is nothing to sign before the conversion is over",
            next_step="leave --no-wait out, or run `edgectl release sign REF --key FILE` later",
        )
    using = WithKeys(key, passphrase_file or (), root_sha256) if key else None
    lineage = {"parent": parent, "retraining": retraining}
    named = {fact: value for fact, value in lineage.items() if value is not None}
    origin = Origin(model, name, version, mlflow_url, write_back, seal, using, named, stated)
    release = _publish_from(
        session, origin, asked, no_wait=no_wait, deploys=to is not None, measure_on=measure_on or []
    )
    if no_wait and not is_over(release):
        session.out.note(f"queued; follow it with `edgectl release show {release.ref}`")
        raise typer.Exit(0)
    if to is not None and release.bundles:
        _deploy(session, release.ref, to, chosen_strategy)
    raise typer.Exit(exit_code(release))


@dataclass(frozen=True)
class Origin:
    """What is published, and as what. write_back: report to the registry that it comes from. seal: encrypt the model in its bundles."""

    model: str
    name: str | None
    version: str | None
    mlflow_url: str | None
    write_back: bool
    seal: bool = False
    using: WithKeys | None = None
    """Keys of the model's team that sign it."""
    lineage: dict[str, str] = field(default_factory=dict)
    """`parent`, a release that may be named by an alias, and `retraining`, as far as they were given."""
    stated: api.release.ModelCardIn | None = None
    """What people state of it; None: nothing new."""


def _publish_from(
    session: Session, origin: Origin, asked: flags.Conversion, *, no_wait: bool, deploys: bool, measure_on: list[str]
) -> api.release.Release:
    """Fetch the model where it is stored elsewhere, publish it, and report to the registry."""
    from edgefleet_cli.importing.release_names import named, pinned
    from edgefleet_cli.importing.resolver import resolved
    from edgefleet_cli.importing.write_back import report_release

    address = pinned(session, origin.model, origin.mlflow_url)
    name, version = named(session, origin.model, address, origin.name, origin.version)
    stated = _with_parent(session, origin.lineage, name)
    with resolved(session, origin.model, address, origin.mlflow_url) as source:
        lineage = {**source.lineage, **stated}
        request = asked.request(model=str(source.path), name=name, version=version, lineage=lineage)
        request = replace(request, seal=origin.seal)
        release = _publish(session, request, no_wait=no_wait, deploys=deploys, measure_on=measure_on)
        if origin.stated is not None:
            put_card(session, release.ref, origin.stated)
        if release.state == UNSIGNED:
            release = _signed(session, release, str(source.path), origin.using)
    if origin.write_back and release.bundles:
        report_release(session, release, origin.mlflow_url)
    return release


def _with_parent(session: Session, lineage: dict[str, str], name: str) -> dict[str, str]:
    """Return what is stated of the origin, with the parent as `name@version`. Raises UsageError when it is of another model.

    So it is refused before anything is uploaded, and an alias that moves later changes nothing.
    """
    if "parent" not in lineage:
        return lineage
    parent = session.api.get(f"/releases/{part(lineage['parent'])}", api.release.Release).value
    if parent.model != name:
        raise UsageError(
            f"{parent.ref} cannot be the parent of a release of {name}",
            why="it is a release of another model",
            next_step=f"name a release of {name}: `edgectl release list --model {name}`",
        )
    return {**lineage, "parent": parent.ref}


def _signed(session: Session, release: api.release.Release, model: str, using: WithKeys | None) -> api.release.Release:
    """Sign a release that waits for its team, where there is a key; return it as it stands then."""
    from edgefleet_cli.release.team_release import note_unsigned, show_signed, sign_release, source_of

    if using is None:
        note_unsigned(session, release.ref)
        return release
    show_signed(session, sign_release(session, release.ref, using, source_of(model)))
    return session.api.get(f"/releases/{part(release.ref)}", api.release.Release).value


def _refuse_early_measurement(no_wait: bool, measure_on: list[str] | None) -> None:
    if no_wait and measure_on:
        raise UsageError(
            "--measure-on does not go with --no-wait",
            why="there is nothing to measure before the conversion is over",
            next_step="leave --no-wait out, or run `edgectl device measure DEVICE RELEASE` later",
        )


def _publish(
    session: Session, request: flags.ModelRequest, *, no_wait: bool, deploys: bool, measure_on: list[str]
) -> api.release.Release:
    from edgefleet_cli.release.publisher import DEFAULT_WAIT_S, Publisher

    publisher = Publisher(session.api, session.out, session.clock)
    reply = publisher.publish(request)
    release = reply.value
    if request.profiles is None and not request.profile_files and release.profiles_reason:
        session.out.note(f"profiles: {release.profiles_reason}")
    if is_over(release):
        session.out.note(f"{release.ref} exists already with the same source, data and options")
    elif not no_wait:
        wait_s = session.options.timeout_s or DEFAULT_WAIT_S
        try:
            reply = publisher.follow(reply, wait_s=wait_s)
        except KeyboardInterrupt:
            session.out.note(
                f"the server continues converting; follow it with `edgectl release show {release.ref}` or cancel it with"
                f" `edgectl release cancel {release.ref}`"
            )
            raise
    release, measured = reply.value, []
    if measure_on and release.bundles:
        measured = _measured(session, release, measure_on)
        reply = Reply({**reply.raw, "measured": [reply_of(row).raw for row in measured]}, api.release.Release)
    session.out.one(reply, RELEASES, lambda entry: _show(session, entry, measured, deploys=deploys))
    if release.bundles:
        _note_policies(session, release.ref)
    return release


def _note_policies(session: Session, ref: str) -> None:
    """Say at once what a release lacks of what policies require; nothing about a server that has no policies yet."""
    try:
        found = session.api.get(f"/releases/{part(ref)}/policy-check", api.release.PolicyCheck).value
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise
        return
    for one in found.findings:
        session.out.note(f"it may not be deployed yet: {one.policy} requires {one.rule}: {one.what}; {one.next_step}")


def _measured(session: Session, release: api.release.Release, devices: list[str]) -> list[Measured]:
    from edgefleet_cli.release.device_measurement import Measurer

    measurer = Measurer(session.api, session.out, session.clock)
    return [measurer.measure(release, device) for device in devices]


def _show(session: Session, release: api.release.Release, measured: list[Measured], *, deploys: bool) -> None:
    show_result(session.out, release)
    if measured:
        from edgefleet_cli.release.device_measurement import show_measured

        show_measured(session.out, measured)
    if is_over(release):
        session.out.note(f"full conversion report: `edgectl release report {release.ref}`")
    if release.state == "ready":
        hint = "" if deploys else f"; deploy it with `edgectl deploy {release.ref} --to SELECTOR`"
        session.out.note(f"{release.ref} is ready{hint}")
    elif release.state == "partial":
        count = len(release.bundles)
        session.out.note(f"{release.ref} is partial: {count} signed bundle{'s' if count != 1 else ''} can be deployed")
    elif release.state in {"failed", "cancelled"}:
        session.out.note(
            f"{release.ref} has no bundle: nothing was signed, so the version is still free; correct it and publish again"
        )


def _deploy(session: Session, ref: str, selector: str, strategy: str) -> None:
    if strategy != ALL:
        document = strategy_document(ref, selector, strategy)
        warn_of_older(session, document)
        rollout = rollouts_of(session).create(document).value
        session.out.note(f"rollout {rollout.id} is {state_text(rollout)}; {next_steps(rollout)}")
        return
    from edgefleet_cli.release.deployment.deployer import Deployer

    deployer = Deployer(session.api, session.out, session.clock)
    ask_or_warn(session, ref, deployer.deploy(ref, selector=selector, dry_run=True).value.warning)
    answer = deployer.deploy(ref, selector=selector)
    note_skipped(session, answer.value)
    count = len(answer.value.set)
    if not count and not answer.value.skipped:
        session.out.note(no_match(session.api, selector))
        return
    session.out.note(f"deployed to {count} device{'s' if count != 1 else ''}: `edgectl release devices {ref}`")
