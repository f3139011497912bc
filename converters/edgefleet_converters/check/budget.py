"""Size and memory against a profile's budgets. Pure. A budget of 0 means no limit."""

from edgefleet_profiles.profile import HardwareProfile

_MIB = 1024 * 1024
SLOTS = 2
"""A device keeps the bundle that runs and the one before or after it (decision 0004, A/B slots)."""


def over_size(profile: HardwareProfile, model_bytes: int) -> str:
    """Return why a model file is too large for the profile; empty when it fits."""
    if profile.max_model_bytes and model_bytes > profile.max_model_bytes:
        return f"{model_bytes} bytes, profile {profile.name} takes at most {profile.max_model_bytes} (max_model_bytes)"
    return ""


def over_memory(profile: HardwareProfile, peak_rss_bytes: int) -> str:
    """Return why a worker with this model needs too much memory; empty when it fits.

    peak_rss_bytes: of a whole process with the runtime and the model, as a device's worker would be. Without a budget for
    models the board's whole memory is the limit.
    """
    key = "free_ram_budget_mb" if profile.free_ram_budget_mb else "ram_mb"
    budget_mb = profile.free_ram_budget_mb or profile.ram_mb
    if budget_mb and peak_rss_bytes > budget_mb * _MIB:
        return f"the running model needs {peak_rss_bytes // _MIB} MiB, profile {profile.name} has {budget_mb} MiB for it ({key})"
    return ""


def over_arena(profile: HardwareProfile, arena_bytes: int) -> str:
    """Return why a model needs too large an arena of TFLite Micro; empty when it fits.

    arena_bytes: the smallest arena in which the model loads and runs on a 64-bit host with the reference kernels. A 32-bit
    board has smaller pointers; kernels made for it (CMSIS-NN, ESP-NN) may ask for more scratch memory.
    """
    if profile.max_arena_bytes and arena_bytes > profile.max_arena_bytes:
        return (
            f"the model needs an arena of {arena_bytes} bytes, profile {profile.name} has {profile.max_arena_bytes} "
            "(max_arena_bytes)"
        )
    return ""


def over_storage(profile: HardwareProfile, bundle_bytes: int) -> str:
    """Return why two slots with such a bundle do not fit on the board; empty when they do."""
    needed = SLOTS * bundle_bytes
    if profile.storage_mb and needed > profile.storage_mb * _MIB:
        return (
            f"{SLOTS} slots with this bundle need {needed} bytes, profile {profile.name} has {profile.storage_mb} MiB for "
            "models (storage_mb)"
        )
    return ""
