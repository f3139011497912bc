"""What a server claims before it loads anything else: settings that are allowed, its data folder, and the addresses where it listens.

Loading all features takes two seconds of processor time. A server that may not start, or cannot, says so before them.
"""

import fcntl
from contextlib import ExitStack

from edgefleet_server.process.lifecycle.run_file import RunFile
from edgefleet_server.process.listener import ListeningSocket, listening_socket
from edgefleet_server.process.setting_check import check_settings
from edgefleet_server.settings import ServerRole, ServerSettings


class Claim:
    """Holds a data folder by a lock, and sockets that listen, where this process has the role of the API. Nothing answers there yet."""

    def __init__(self, settings: ServerSettings) -> None:
        """Claim it. Raises SettingsError, AlreadyRunningError, ListenError; nothing is held then."""
        self.api: ListeningSocket | None = None
        self.device: ListeningSocket | None = None
        check_settings(settings)
        settings.run_dir.mkdir(mode=0o700, exist_ok=True)
        with ExitStack() as stack:
            _lock(settings, stack)
            RunFile(settings.run_dir).drop_stale()
            if ServerRole.API in settings.roles:
                self.api = stack.enter_context(listening_socket(settings.api_host, settings.api_port))
                self.device = stack.enter_context(listening_socket(settings.device_host, settings.device_port))
            self._held = stack.pop_all()

    def close(self) -> None:
        """Let go of all of it."""
        self._held.close()


def _lock(settings: ServerSettings, stack: ExitStack) -> None:
    file = stack.enter_context((settings.run_dir / f"{settings.instance}.lock").open("a+"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        from edgefleet_server.process.init import AlreadyRunningError  # only here: it loads keys and signing

        raise AlreadyRunningError(
            f"a server named {settings.instance!r} already runs on {settings.data_dir}",
            next_step="stop it first, or give this replica its own name with --instance",
        ) from error
