"""What `edgectl --help` says of each command; `tests/cli/test_imports.py` holds it against the commands themselves.

Kept apart from them so that the front page imports none of them.
"""

from __future__ import annotations

from typing import Final

SUMMARIES: Final = {
    "demo": "Run a whole fleet on this machine: server, devices, rollouts. Ctrl-C removes it.",
    "login": "Log in to a server and make it the current context.",
    "whoami": "Show the name and the roles of the current token.",
    "logout": "Remove the token of the current context; it stays valid at the server until it is revoked.",
    "publish": "Convert a model for every profile, validate and sign it.",
    "convert": "Convert a model on this machine into unsigned bundles.",
    "deploy": "Deploy a release.",
    "sim": "Simulate a rollout in virtual time, with faults, without a server.",
    "undo": "Roll back every device of a model to its previous release.",
    "dashboard": "Print a one-time sign-in link to the pages.",
    "events": "List events, newest first; with -f follow them, oldest first.",
    "top": "Show health, charts, devices, rollouts, alerts and events on one screen, live; pause, promote or roll back there.",
    "search": "Find devices, models, releases, rollouts and groups by name.",
    "apply": "Apply files to the fleet: groups, device labels, webhooks, alert receivers, rollouts.",
    "diff": "Show how the fleet differs from files.",
    "get": "Show objects as documents; `apply` takes what `-o yaml` prints.",
    "export": "Export the fleet as one file for `apply -f`, without secrets.",
    "delete": "Delete what files declare; devices and rollouts stay.",
    "doctor": "Check this machine: contexts, address, TLS, token, versions, clocks, completion.",
    "version": "Show the version of edgectl, of Python and the platform.",
    "options": "List the global options, which every command takes.",
    "completion": 'Print the completion script of a shell, e.g. `eval "$(edgectl completion bash)"`.',
    "server": "Run a server on this machine.",
    "context": "Manage saved servers.",
    "model": "Manage models.",
    "release": "Manage releases: a model at a version, with one bundle per profile.",
    "bundle": "Manage bundles: a release built and signed for one profile.",
    "feedback": "Send labels of earlier answers, and see how they fared.",
    "slo": "Set objectives of models, and see what is left of their error budgets.",
    "drift": "Show whether what models are asked and answer has drifted.",
    "rollout": "Manage rollouts: a release in stages, judged at each.",
    "experiment": "Show experiments: rollouts with a shadow or split stage.",
    "device": "Manage devices.",
    "group": "Manage groups of devices, for `group=NAME` in selectors.",
    "profile": "Show hardware profiles: what a board and its runtime support.",
    "token": "Manage operator tokens.",
    "key": "Show which keys sign what, and until when.",
    "capture-key": "Manage the key that captured records are sealed to.",
    "tool": "Manage the tool environments that scikit-learn, PyTorch and Keras models need.",
    "predictions": "Keep logs of what models answer, and prove that they are whole.",
    "data": "Erase a person's data.",
    "alert": "Show alerts, and who gets messages about them.",
    "webhook": "Send events to other programs as signed CloudEvents.",
    "alert-receiver": "Let Alertmanager pause or roll back rollouts.",
    "fleet": "Show the fleet as a whole.",
    "audit": "Show who changed what, and prove that nothing of it was changed.",
    "config": "Show the settings of edgectl.",
    "import": "Import models from an MLflow registry.",
}
