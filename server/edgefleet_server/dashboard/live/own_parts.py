"""Parts of a page that differ by person, on pages that all with the same rights share. Pure.

A page is rendered once for all of them (`hub`). What differs is written twice between marks, for a person who may give a second yes to a
rollout and for the others; each viewer gets one of both. No text of a page can forge a mark: templates escape `<`.
"""

import base64
import json
import re
from typing import Final

from edgefleet_server.access.model import Principal
from edgefleet_server.rollout.commands.duty_separation import Makers, is_second_person

OTHERWISE: Final = "<!--otherwise-->"
END: Final = "<!--end of own part-->"
_PART: Final = re.compile(r"<!--second person ([\w=-]+)-->(.*?)<!--otherwise-->(.*?)<!--end of own part-->", re.DOTALL)


def second_person(makers: Makers) -> str:
    """Return the mark before what only a second person gets; OTHERWISE and END follow it."""
    known = json.dumps([list(makers.people), makers.created_by]).encode()
    return f"<!--second person {base64.urlsafe_b64encode(known).decode()}-->"


def own_parts(text: str, viewer: Principal) -> str:
    """Return a text as a viewer gets it, without marks."""

    def chosen(part: re.Match[str]) -> str:
        people, created_by = json.loads(base64.urlsafe_b64decode(part[1]))
        return part[2] if is_second_person(viewer, Makers(people, created_by)) else part[3]

    return _PART.sub(chosen, text)
