"""What launchers refuse."""

from edgefleet_server.retraining.errors import LaunchRefusedError


class BadLauncherError(LaunchRefusedError):
    """The settings of a launcher cannot be used: one is missing, unknown, or has a value that it cannot have."""

    code = "launcher.bad_settings"


class LaunchTooLargeError(LaunchRefusedError):
    """What the launcher would send is larger than its receiver takes, even without what moved."""

    code = "launcher.too_large"
