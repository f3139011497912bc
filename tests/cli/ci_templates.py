"""The steps of the GitHub action and the jobs of the GitLab template, run as their runners do: by bash, with what the YAML says.

Of GitHub's expressions only those are known that the action uses: inputs, outputs of steps, `github.…`, `==`, `!=`, `&&`, `||`.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.house.tree import ROOT

ACTION = ROOT / "deploy" / "github" / "action.yml"
TEMPLATE = ROOT / "deploy" / "gitlab" / "edgefleet.yml"
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_GITHUB_SHELL = ("bash", "--noprofile", "--norc", "-eo", "pipefail")


@dataclass
class Ran:
    """What a run did: steps that ran with their exit codes, outputs by step, all that was printed."""

    steps: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    printed: str = ""
    summary: str = ""

    @property
    def is_good(self) -> bool:
        """Whether no step failed."""
        return not any(self.steps.values())


def run_action(folder: Path, inputs: dict[str, str], github: dict[str, str], environ: dict[str, str]) -> Ran:
    """Run the action's steps in `folder`. Later steps do not run after a failure, but for `always()`."""
    action: dict[str, Any] = yaml.safe_load(ACTION.read_text())
    assert set(inputs) <= set(action["inputs"]), "an input that the action does not have"
    given = {name: str(one.get("default", "")) for name, one in action["inputs"].items()} | inputs
    ran = Ran()
    files = {name: folder / f".{name.lower()}" for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    files["GITHUB_STEP_SUMMARY"].write_text("")
    (folder / ".temp").mkdir(exist_ok=True)
    for step in action["runs"]["steps"]:
        condition = str(step.get("if", ""))
        if not (ran.is_good or condition == "always()"):
            continue
        if condition and condition != "always()" and not _value(condition, given, github, ran):
            continue
        files["GITHUB_OUTPUT"].write_text("")
        env = {name: _filled(str(value), given, github, ran) for name, value in step.get("env", {}).items()}
        base = {
            **environ,
            **env,
            **{name: str(file) for name, file in files.items()},
            "RUNNER_TEMP": str(folder / ".temp"),
        }
        script = folder / ".step.sh"
        script.write_text(_filled(step["run"], {}, {}, ran))
        done = subprocess.run(
            [*_GITHUB_SHELL, str(script)],
            cwd=folder,
            env=base,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        ran.steps[step["name"]] = done.returncode
        ran.printed += f"--- {step['name']}\n{done.stdout}{done.stderr}"
        lines = [line.partition("=") for line in files["GITHUB_OUTPUT"].read_text().splitlines()]
        ran.outputs[step.get("id", step["name"])] = {name: value for name, _, value in lines}
    ran.summary = files["GITHUB_STEP_SUMMARY"].read_text()
    return ran


def run_job(folder: Path, name: str, variables: dict[str, str], environ: dict[str, str]) -> Ran:
    """Run a job of the GitLab template in `folder`: `before_script` and `script` in one shell, then `after_script`."""
    jobs: dict[str, Any] = yaml.safe_load(TEMPLATE.read_text())
    job = jobs[name]
    base = jobs[job["extends"]]
    told = {**base["variables"], **job["variables"]}
    assert set(variables) <= {*told, "RELEASE"}, "a variable that the job does not have"
    env = {**environ, **told, **variables, "CI_BUILDS_DIR": str(folder), "CI_JOB_ID": "7"}
    ran = Ran()
    for part, lines in (("script", [*base["before_script"], *job["script"]]), ("after_script", base["after_script"])):
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", "\n".join(lines)],
            cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        ran.steps[part] = done.returncode
        ran.printed += done.stdout + done.stderr
    return ran


def clean_environ(home: Path) -> dict[str, str]:
    """Return an environment as a runner's: with edgectl on the path and nothing of the user's own."""
    import sys

    kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {
        **kept,
        "PATH": path,
        "HOME": str(home),
        "NO_COLOR": "1",
        "GITHUB_API_URL": "",
        "GITHUB_REPOSITORY": "team/models",
    }


def _filled(text: str, inputs: dict[str, str], github: dict[str, str], ran: Ran) -> str:
    return _EXPRESSION.sub(lambda match: _value(match.group(1), inputs, github, ran), text)


def _value(expression: str, inputs: dict[str, str], github: dict[str, str], ran: Ran) -> str:
    """Return the value of an expression; a condition that does not hold is ""."""
    either = [part.strip() for part in expression.split("||")]
    if len(either) > 1:
        return next((found for part in either if (found := _value(part, inputs, github, ran))), "")
    both = [part.strip() for part in expression.split("&&")]
    if len(both) > 1:
        return "true" if all(_value(part, inputs, github, ran) for part in both) else ""
    for operator in ("==", "!="):
        left, found, right = expression.partition(operator)
        if found:
            is_same = _value(left, inputs, github, ran) == _value(right, inputs, github, ran)
            return "true" if is_same == (operator == "==") else ""
    word = expression.strip()
    if word.startswith("'"):
        return word.strip("'")
    place, _, name = word.partition(".")
    if place == "inputs":
        return inputs[name]
    if place == "github":
        return github.get(name, "")
    assert place == "steps", word
    step, _, output = name.partition(".outputs.")
    return ran.outputs.get(step, {}).get(output, "")
