"""Nothing secret leaves a device, whatever it stands in; what one looks for stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.core.text_table import WIDTH, age, fields, sheet, size
from edgefleet_agent.diagnostics.redact import GONE, redact, redact_value

BEGIN, END = "-----BEGIN EC PRIVATE " + "KEY-----", "-----END EC PRIVATE " + "KEY-----"
KEY = f"{BEGIN}\nMHcCAQEEIKq1\nabcDEF==\n{END}"
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJkLTEifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"key: {KEY} after", "MHcCAQEEIKq1"),
        (f"{BEGIN}\nMIGHAgEA cut off", "MIGHAgEA"),
        ("enroll efc1.eyJ1cmwiOiJodHRwcyJ9 done", "eyJ1cmwi"),
        ("token edg_abcdefghijkl_Sup3rS3cr3t-x", "Sup3rS3cr3t"),
        (f"Authorization: Bearer {JWT}", "c2lnbmF0dXJl"),
        (f"got {JWT}", "eyJzdWIi"),
        ("mqtts://user:hunter2@broker:8883", "hunter2"),
        ("broker_password=hunter2 next=1", "hunter2"),
        ('{"api_key": "hunter2", "n": 1}', "hunter2"),
        ("client_secret: 'hunter two'", "hunter two"),
    ],
)
def test_secrets_are_taken_out(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert GONE in redact(text)


@pytest.mark.parametrize(
    "text", ["sha256=" + "ab" * 32, "gen=17 phase=committed", "https://fleet.example:8443/x", "no key"]
)
def test_what_one_looks_for_stays(text: str) -> None:
    assert redact(text) == text


def test_fields_with_telling_names_are_emptied_at_any_depth() -> None:
    found = redact_value({"a": [{"password": "x1"}], "key_pem": b"pem", "sha256": "ab", "raw": b"12345", "n": 3})
    assert found == {"a": [{"password": GONE}], "key_pem": GONE, "sha256": "ab", "raw": "5 bytes", "n": 3}


@given(st.text(), st.text(alphabet="abcdefXYZ0123456789", min_size=12))
def test_a_private_key_goes_from_any_text_and_twice_changes_nothing(around: str, inside: str) -> None:
    text = f"{around}{BEGIN}\n{inside}\n{END}"
    assert inside not in redact(text) or inside in redact(around)
    assert redact(redact(text)) == redact(text)


@given(st.lists(st.tuples(st.text(max_size=120), st.integers(), st.text(max_size=60)), max_size=6))
def test_no_line_of_a_table_is_longer_than_a_terminal(rows: list[tuple[str, int, str]]) -> None:
    table = sheet(("name", "number", "what"), rows, right=("number",))
    assert len(table.split("\n")) == len(rows) + 1
    assert all(len(line) <= WIDTH for line in table.split("\n"))
    assert all(
        len(line) <= WIDTH for line in fields([(row[2] or "x", row[0]) for row in rows] or [("a", "b")]).split("\n")
    )


def test_sizes_and_ages_are_short() -> None:
    assert [size(n) for n in (-1, 0, 999, 1500, 12_345_678, 5_000_000_000)] == [
        "-",
        "0 B",
        "999 B",
        "1.5 KiB",
        "11.8 MiB",
        "4.7 GiB",
    ]
    assert [age(s) for s in (5, 600, 10_000, 900_000)] == ["5 s", "10 min", "3 h", "10 d"]
