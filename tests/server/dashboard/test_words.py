"""The words of the pages: usual ones, and hard ones linked to the glossary, which is the one of the documentation."""

import re
from pathlib import Path

import pytest

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.glossary import glossary, parse
from tests.house.tree import ROOT
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.test_pages import text_of

PAGES = ROOT / "server" / "edgefleet_server" / "dashboard"
TEXTS = [*PAGES.rglob("*.html"), *PAGES.rglob("*.py"), *PAGES.glob("static/*.js")]
ODD = re.compile(
    r"""
    \bMade\b | Make\ (?:it|a|an|the)\b | \bTries\b | Tokens\ there\ are | kept\ nowhere | worth\ nothing | in\ vain | Nobody\ waits
    | [Ll]et\ (?:in|the|all|these)\b | [Gg]ave\ up | Gives?\ it\b | Give\ a\ | put\ up\ with | [Ll]eave\ out | stage\ pass\b
    | Wanted | is\ wanted | Ask\ it | Still\ asks | Says\ it\ is | came\ of\ it | End\ it | Good\ (?:until|for)\b | Take\ it
    | Nothing\ is\ called | in\ its\ name\. | is\ like\ that | is\ so\. | is\ known\ of\ it | not\ known" | \banew\b | beside\ what
    | told\ of | took\ it\ up | taken\ it\ up | taken\ back | on\ your\ word | takes?\ the\ word | Go\ on\b | goes\ on\b | by\ hand
    | if\ you\ like | [Ww]ay\ back | way,\ who | as\ likely\ as | so\ many\ % | stands?\ for\b.*</ | Who\ may | Who\ is\ in
    | What\ it\ waits | Where\ it\ | (?<!\.)\bproved | <<<<<<< | ^>>>>>>>
    """,
    re.VERBOSE,
)
"""Phrases at which a reader stops. In Python and JavaScript only texts are looked at: no comment, no docstring."""
LINKED = ("stratum", "golden vectors", "probation", "gen", "exposed", "desired document", "evidence", "bundle", "soak")
WITHIN = r', "([a-z ]+)"(?:, "([a-z ]+)")?\)'
"""The last arguments of `with_term`."""


def shown(path: Path) -> list[str]:
    """Return the lines of a file that may reach a user."""
    text = path.read_text()
    if path.suffix == ".html":
        return re.sub(r"\{#.*?#\}", "", text, flags=re.DOTALL).splitlines()
    code = re.sub(r'""".*?"""|//[^\n]*', "", text, flags=re.DOTALL)
    return re.findall(r'"[^"\n]*"|`[^`\n]*`', re.sub(r"#[^\n]*", "", code))


def test_pages_say_it_in_usual_words() -> None:
    odd = [
        (path.name, found[0])
        for path in TEXTS
        for line in shown(path)
        for found in [ODD.search(line)]
        if found is not None
    ]
    assert odd == []


def test_hard_words_are_linked_to_the_glossary() -> None:
    lines = [line for path in PAGES.rglob("*.html") for line in path.read_text().splitlines()]
    linked = {name for line in lines for name in re.findall(r'\bterm\("([^"]+)"', line)}
    within = {name or word for line in lines for word, name in re.findall(WITHIN, line) if "with_term(" in line}
    assert set(LINKED) <= linked | within
    assert linked | within <= glossary().keys()


def test_the_glossary_of_pages_is_that_of_the_documentation() -> None:
    assert dict(glossary()) == parse((ROOT / "docs" / "glossary.md").read_text())
    assert [term.name for term in glossary().values() if "](" in term.plain] == []
    assert len(glossary()) > 50
    assert "KeepWaiting" not in glossary()
    assert (
        parse("\n## Words of the product\n\n| word | means |\n| **a b** | one `c`; *two* |\n")["a b"].plain
        == "one c; two"
    )


def test_each_word_has_its_place_on_the_page(empty_fleet: Fleet) -> None:
    page = empty_fleet.browser(Role.VIEWER).get("/glossary")
    assert page.status_code == 200
    assert set(re.findall(r'<div id="([^"]+)"><dt>', page.text)) == {one.anchor for one in glossary().values()}
    assert "stratum The devices in a rollout that share a hardware profile" in text_of(page.text)


@pytest.mark.parametrize("path", ["/", "/nowhere"])
def test_a_refusal_begins_with_a_capital(empty_fleet: Fleet, path: str) -> None:
    answer = empty_fleet.browser(Role.VIEWER).get("/audit" if path == "/" else "/groups/nowhere")
    heading = re.search(r"<h1>(.*?)</h1>", answer.text)
    assert heading is not None
    assert heading[1][:1].isupper()
