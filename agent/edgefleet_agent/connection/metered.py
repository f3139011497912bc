"""Whether the link costs money by the byte: the setting, else what NetworkManager says, else what the default route looks like.

`read_hints` runs a program and may take two seconds: never in agentd's loop. The rest is pure.
"""

import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

_BY_THE_BYTE = ("wwan", "ppp", "rmnet", "ccmni", "usb_modem")
_RTF_GATEWAY = 2


def default_interface(route_table: str) -> str:
    """Return the interface of the default route with the lowest metric in the text of /proc/net/route, "" when there is none."""
    best = ("", 1 << 32)
    for line in route_table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or fields[1] != "00000000" or not int(fields[3], 16) & _RTF_GATEWAY:
            continue
        if int(fields[6]) < best[1]:
            best = (fields[0], int(fields[6]))
    return best[0]


def decide(setting: str, network_manager: str, interface: str) -> bool:
    """Return whether the link is metered. setting: yes, no or auto. network_manager: `GENERAL.METERED` as nmcli prints it."""
    if setting != "auto":
        return setting == "yes"
    said = network_manager.strip().lower()
    if said.startswith(("yes", "no")):
        return said.startswith("yes")
    return interface.startswith(_BY_THE_BYTE)


def read_hints() -> tuple[str, str]:
    """Return what NetworkManager says of the default route's interface, and its name; "" where nothing is known. Blocks."""
    try:
        interface = default_interface(Path("/proc/net/route").read_text("ascii"))
    except (OSError, ValueError):
        return "", ""
    nmcli = shutil.which("nmcli")
    if not interface or nmcli is None:
        return "", interface
    try:
        done = subprocess.run(
            [nmcli, "-t", "-g", "GENERAL.METERED", "device", "show", interface],
            capture_output=True,
            text=True,
            timeout=2.0,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "", interface
    return done.stdout, interface


def look(setting: str, tell: Callable[[bool], None]) -> None:
    """Find out and call `tell`, from another thread where a program has to be asked."""
    if setting != "auto":
        tell(setting == "yes")
        return
    threading.Thread(target=lambda: tell(decide(setting, *read_hints())), name="metered", daemon=True).start()
