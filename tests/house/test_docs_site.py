"""The documentation site: strict links, nothing inline, the same bytes each time, and a search that works under our own policy.

Built here of a few pages. All pages: `./dev soak docs-site`, and each `./dev dist` and `./dev release`.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import expect

from edgefleet_server.dashboard import documentation_pages
from tests.house import docs_site
from tests.house.docs_nodes import navigation
from tests.house.docs_policy import inline_parts
from tests.house.tree import ROOT
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.looking import in_peace, violations
from tests.server.dashboard.serving import served
from tests.server.dashboard.test_login_pages import CSP
from tests.support.browsers import binary, browser

TURBINES = "learn/" + "turbines.md"
PAGES = {
    "index.md": "# Documentation\n\n## Learn: tutorials\n\n- [Turbines](learn/turbines.md)\n\n## Do\n\n- [Drift](drift.md)\n",
    TURBINES: "# Turbines\n\nSee [drift](../drift.md#what-it-is) and [a file](../../pyproject.toml), [too](../../README.md).\n\n"
    "![A page](../pictures/page.png)\n",
    "drift.md": "# Drift\n\n## What it is\n\nA change of inputs.\n\n| a | b | |\n| --- | :---: | --- |\n| `c` | d | "
    + "word" * 60
    + " |\n",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with a few pages."""
    root = tmp_path_factory.mktemp("tree")
    for name, text in PAGES.items():
        (root / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "docs" / name).write_text(text)
    (root / "docs" / "pictures").mkdir()
    for name in ("page.png", "page-dark.png"):
        shutil.copy(ROOT / "docs/pictures/overview.png", root / "docs/pictures" / name)
    (root / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (root / "README.md").write_text("# A tree\n")
    return root


@pytest.fixture(scope="module")
def site(tree: Path) -> Path:
    """The site of these pages."""
    assert docs_site.build(tree, tree / "site") == len(PAGES) + 1  # and the search
    return tree / "site"


def test_the_index_is_the_navigation(site: Path) -> None:
    assert list(navigation(PAGES["index.md"])) == [("Learn", ["learn/turbines"]), ("Do", ["drift"])]
    text = (site / "drift.html").read_text()
    assert re.findall(r'caption-text">(\w+)<', text) == ["Learn", "Do"]
    assert '<a class="reference internal" href="learn/turbines.html">Turbines</a>' in text
    assert '<a class="prev-page" href="learn/turbines.html">' in text


def test_every_page_of_the_documentation_is_in_the_navigation_or_on_a_list() -> None:
    listed = {page for _caption, pages in navigation((ROOT / "docs/index.md").read_text()) for page in pages}
    assert [page for page in sorted(listed) if not (ROOT / "docs" / f"{page}.md").is_file()] == []
    missing = {
        path.relative_to(ROOT / "docs").with_suffix("").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
        if not path.relative_to(ROOT / "docs").as_posix().startswith(("adr/", "notes/", "reference/p", "index"))
    } - listed
    assert missing <= {"reference/slo"}


def test_nothing_stands_inline_and_nothing_comes_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text()
        assert inline_parts(text) == [], path
        assert not re.search(r'(?:src|<link[^>]*href)="(?:https?:)?//', text), path
    for path in site.rglob("*.js"):
        assert "javascript:" not in path.read_text(), path
    for path in site.rglob("*.css"):
        assert not re.search(r"data:|@import|https?://[^ ]*\)", path.read_text()), path


@pytest.mark.parametrize(
    "text",
    [
        '<p style="a: b">',
        "<script>x()</script>",
        "<style>a {}</style>",
        '<a onclick="x()">',
        '<a href="javascript:x()">',
    ],
)
def test_what_a_strict_policy_refuses_is_found(text: str) -> None:
    assert len(inline_parts(text)) == 1


def test_a_picture_follows_the_colours_and_a_file_of_the_clone_is_a_name(site: Path) -> None:
    text = (site / "learn/turbines.html").read_text()
    assert re.search(r'<img[^>]*class="only-light"[^>]*_images/page.png', text)
    assert re.search(r'<img[^>]*class="only-dark"[^>]*_images/page-dark.png', text)
    assert "pyproject.toml" not in text
    assert re.findall(r'<span class="source-file"><span[^>]*>([^<]+)<', text) == ["a file", "too"]
    assert 'href="../drift.html#what-it-is"' in text


@pytest.mark.parametrize("link", ["nowhere.md", "drift.md", "../drift.md#nothing", "../../nothing.py"])
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path, tree: Path, link: str) -> None:
    shutil.copytree(tree, tmp_path / "tree")
    (tmp_path / "tree/docs" / TURBINES).write_text(f"# Turbines\n\n[wrong]({link})\n")
    with pytest.raises(docs_site.BuildError, match=r"turbines\.md:3"):
        docs_site.build(tmp_path / "tree", tmp_path / "site")


def test_the_same_pages_make_the_same_bytes(tmp_path: Path, tree: Path, site: Path) -> None:
    shutil.copytree(tree / "docs", tmp_path / "elsewhere/docs")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(tree / name, tmp_path / "elsewhere")
    docs_site.build(tmp_path / "elsewhere", tmp_path / "site")
    first, second = tmp_path / "first.tar.xz", tmp_path / "second.tar.xz"
    assert docs_site.pack(site, first) == docs_site.pack(tmp_path / "site", second)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.skipif(binary() is None, reason="Chromium is not installed")
def test_the_server_shows_it_and_the_search_works_under_its_policy(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs_site.pack(site, tmp_path / "help.tar.xz")
    monkeypatch.setattr(documentation_pages, "ARCHIVE", tmp_path / "help.tar.xz")
    fleet = Fleet(tmp_path / "server")
    with served(fleet.house.own_app()) as url, browser() as chromium:
        page = chromium.new_page()
        with in_peace(page):
            answer = page.goto(f"{url}/help")
            assert answer is not None
            assert answer.headers["content-security-policy"] == CSP
            assert violations(page) == []
            page.click("text=Turbines")
            assert page.locator("h1").inner_text().startswith("Turbines")
            page.emulate_media(color_scheme="dark")
            expect(page.locator("img.only-dark")).to_be_visible()  # a picture has no size before it has come
            expect(page.locator("img.only-light")).to_be_hidden()
            assert violations(page) == []
            page.fill("input[name=q]", "inputs")
            page.press("input[name=q]", "Enter")
            found = page.locator("ul.search li a", has_text="Drift").first
            found.wait_for()
            assert violations(page) == []
            found.click()
            page.wait_for_url("**/help/drift.html*")
            page.set_viewport_size({"width": 360, "height": 740})
            assert violations(page) == []
        context = chromium.new_context(java_script_enabled=False)
        assert context.new_page().goto(f"{url}/help/nowhere.html").status == 404  # type: ignore[union-attr]
        context.close()
    fleet.close()


def test_the_licences_of_what_it_brings_along_are_in_it(site: Path) -> None:
    for name in ("furo", "sphinx"):
        assert "Copyright" in (site / "_static" / f"{name}.LICENSE.txt").read_text()


def test_versions_are_kept_next_to_each_other(tmp_path: Path, site: Path) -> None:
    for version in ("0.9.0", "0.10.0"):
        found = docs_site.publish(site, tmp_path / "all", version)
    assert found == ["0.10.0", "0.9.0"]
    assert json.loads((tmp_path / "all/versions.json").read_text()) == found
    page = (tmp_path / "all/0.9.0/learn/turbines.html").read_text()
    assert 'src="../_static/versions.js" data-versions="../../versions.json"' in page
    assert (tmp_path / "all/0.9.0/_static/versions.js").is_file()
    assert inline_parts(page) == []
    assert json.loads((tmp_path / "all/0.9.0/pages.json").read_text()) == [
        "drift.html", "index.html", "learn/turbines.html", "search.html",
    ]  # fmt: skip


class Files(SimpleHTTPRequestHandler):
    """A plain web server of files, with our own policy."""

    def end_headers(self) -> None:
        """Add the policy."""
        self.send_header("content-security-policy", CSP)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.skipif(binary() is None, reason="Chromium is not installed")
def test_a_version_is_chosen_on_each_page_of_another(tmp_path: Path, site: Path) -> None:
    for version in ("0.9.0", "0.10.0"):
        docs_site.publish(site, tmp_path, version)
    (tmp_path / "0.9.0/drift.html").unlink()
    (tmp_path / "0.9.0/pages.json").write_text('["index.html", "learn/turbines.html"]')
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with browser() as chromium:
            page = chromium.new_page()
            with in_peace(page):
                page.goto(url)
                page.wait_for_url(f"{url}/0.10.0/")
                page.goto(f"{url}/0.10.0/learn/turbines.html#turbines")
                choice = page.get_by_label("Version")
                expect(choice).to_have_value("0.10.0")
                assert violations(page) == []
                choice.select_option("0.9.0")
                page.wait_for_url(f"{url}/0.9.0/learn/turbines.html#turbines")
                expect(choice).to_have_value("0.9.0")
                choice.select_option("0.10.0")
                page.wait_for_url(f"{url}/0.10.0/**")
                page.goto(f"{url}/0.10.0/drift.html")
                choice.select_option("0.9.0")  # which has no such page
                page.wait_for_url(f"{url}/0.9.0/")
        server.shutdown()
