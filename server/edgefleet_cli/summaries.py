"""What `edgectl --help` says of each command; `tests/cli/test_imports.py` holds it against the commands themselves.

Kept apart from them so that the front page imports none of them.
"""

from __future__ import annotations

from typing import Final

SUMMARIES: Final = {
    "demo": "Start a server and N devices here, publish, deploy, measure, and refuse bad models. Ctrl-C removes it all.",
    "login": "Check a token at a server and save both as the current context.",
    "whoami": "Show who the current token belongs to, and its role.",
    "logout": "Forget the token of the current context; the server keeps it valid until it is revoked.",
    "publish": "Convert a model for every profile, prove each result, sign it. Exit 0 all signed, 1 some refused, 6 other bytes.",
    "convert": "Convert a model here and write unsigned bundles. Exit 0 all made, 1 some refused.",
    "deploy": "Deploy a release. With --wait: exit 0 all run it, 1 a device failed (7 a rollout), 8 not finished in time.",
    "sim": "Simulate a rollout without a server: the shipped rules and the shipped device machine in virtual time, with faults.",
    "undo": "Take every device of a model back to the release that it ran before, at once and without a download where it kept it.",
    "dashboard": "Print a link to the web page that signs a browser in once, within 10 minutes, with your rights.",
    "events": "List what happened, newest first; with -f oldest first, without end (or until --timeout: exit 8).",
    "top": "Show devices, rollouts and events on one screen, anew every 5 s until Ctrl-C (or --timeout: exit 8).",
    "search": "Find devices, models, releases, rollouts and groups by a part of their name.",
    "apply": "Make the fleet as files say: groups, labels of devices, webhooks, alert receivers, rollouts. Twice changes nothing more.",
    "diff": "Show how the fleet differs from files. Exit 0 the same, 1 they differ, more: it could not be told.",
    "get": "Show what is there as documents: what `-o yaml` prints is what `apply` takes.",
    "export": "Print what is there as one file for `apply -f`: YAML, or with -o json a List. No secrets are in it.",
    "delete": "Remove what files declare; devices and rollouts stay, with the reason.",
    "doctor": "Check this side: saved contexts, address, TLS, token, versions, clocks, completion. Exit 1 when something fails.",
    "version": "Show the version of edgectl, of Python and the platform.",
    "completion": 'Print the completion script of a shell, e.g. `eval "$(edgectl completion bash)"`.',
    "server": "Run a server here.",
    "context": "Saved servers and which one is current.",
    "model": "Models: named lines of releases.",
    "release": "Releases: a model at a version, one signed bundle a profile.",
    "bundle": "Bundles: a release built and signed for one profile.",
    "rollout": "Rollouts: a release goes out stage by stage and is judged at each.",
    "experiment": "Experiments: rollouts with a stage beside what serves.",
    "device": "Devices: enrol them, see what they run.",
    "group": "Groups: saved selectors, for `group=NAME` in any selector.",
    "profile": "Hardware profiles: what a board with a runtime can take.",
    "token": "Operator tokens for people and machines.",
    "key": "Signing keys: which role signs what, by which keys, and until when.",
    "capture-key": "The key that captured records are sealed to.",
    "tool": "Tool environments of this machine, for scikit-learn, PyTorch and Keras models.",
    "webhook": "Webhooks: what happens, sent to other programs as signed CloudEvents.",
    "alert-receiver": "Alertmanager pauses or rolls back rollouts.",
    "fleet": "The fleet as a whole.",
    "audit": "The audit trail: who changed what, when, and what came of it.",
    "config": "Settings of this command line.",
    "import": "Models in an MLflow registry: look, follow an alias, write back.",
}
