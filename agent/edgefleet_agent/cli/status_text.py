"""What `edge-agent status` shows."""

from typing import Any

from edgefleet_agent.core.text_table import cut


def status_text(status: dict[str, Any]) -> str:
    """Return the status as lines for a person: at most 80 columns, but a path is never cut."""
    line = "connected to" if status["connected"] else "NOT connected to"
    lines = [
        cut(f"device   {status['device']}  pid {status['pid']}  agent {status['agent_version']}"),
        cut(f"profile  {status['profile']}"),
        cut(
            f"link     {line} {status['broker']}; {status['outbox']['messages']} messages waiting; gen {status['gen']}"
        ),
        f"infer    {status['infer_url']}",
        f"socket   {status['infer_socket']}",
    ]
    if status["refused"]["code"]:
        lines.append(cut(f"refused  {status['refused']['code']}: {status['refused']['reason']}"))
    for model in status["models"]:
        parts = model["active_target"].split("/")
        what = f"{model['model']}@{parts[1]}" if len(parts) > 1 else f"{model['model']}, nothing yet"
        serving = "serving" if model["serving"] else "not serving"
        lines.append(cut(f"model    {what}  {model['phase']}  slot {model['slot'] or '-'}  {serving}"))
        if model["error_code"]:
            lines.append(cut(f"         {model['error_code']}: {model['reason']}"))
    return "\n".join(lines)
