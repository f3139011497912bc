"""Figures of alerts in words. Pure."""


def duration_text(seconds: float) -> str:
    """Return a duration as people say it: `45 s`, `12 min`, `3 h 20 min`, `2 days 4 h`."""
    whole = int(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def percent_text(share: float) -> str:
    """Return a share as a percentage with as many digits as say something."""
    percent = 100 * share
    return (
        f"{percent:.0f} %"
        if percent >= 10
        else f"{percent:.1f} %"
        if percent >= 0.1 or percent == 0
        else f"{percent:.2g} %"
    )


def number_text(value: float) -> str:
    """Return a number without digits that say nothing."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def sentence_of(shown: str, summary: str) -> str:
    """Return what an alert says in one sentence: of what, and what."""
    return f"{shown} {summary}" if summary.startswith(("has ", "is ", "ends ", "ended ")) else f"{shown}: {summary}"
