"""Size and memory against a profile's budgets. Pure. A budget of 0 means no limit."""

from edgefleet_protocol.profile import HardwareProfile

_MIB = 1024 * 1024


def over_size(profile: HardwareProfile, model_bytes: int) -> str:
    """Return why a model file is too large for the profile; empty when it fits."""
    if profile.max_model_bytes and model_bytes > profile.max_model_bytes:
        return f"{model_bytes} bytes, profile {profile.name} takes at most {profile.max_model_bytes} (max_model_bytes)"
    return ""


def over_memory(profile: HardwareProfile, peak_rss_bytes: int) -> str:
    """Return why a worker with this model needs too much memory; empty when it fits.

    peak_rss_bytes: of a whole process with the runtime and the model, as a device's worker would be.
    """
    budget = profile.free_ram_budget_mb * _MIB
    if budget and peak_rss_bytes > budget:
        return (
            f"the running model needs {peak_rss_bytes // _MIB} MiB, profile {profile.name} has "
            f"{profile.free_ram_budget_mb} MiB for it (free_ram_budget_mb)"
        )
    return ""
