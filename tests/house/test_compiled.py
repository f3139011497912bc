"""What is compiled ahead is what pytest reads: otherwise it was made for nothing."""

from __future__ import annotations

from pathlib import Path

from _pytest.assertion import rewrite

from tests.house.compiled import compile_file, compiled_of


def test_pytest_takes_what_was_compiled_ahead_until_the_file_is_changed(tmp_path: Path) -> None:
    file = tmp_path / "test_one.py"
    file.write_text("def test_one():\n    found = 1\n    assert found == 2\n")
    compile_file(file)
    code = rewrite._read_pyc(file, compiled_of(file))
    assert code is not None
    scope: dict[str, object] = {}
    exec(code, scope)  # as pytest does
    assert "@pytest_ar" in scope, "its assertions say what they compared"
    file.write_text("def test_one():\n    assert True\n")
    assert rewrite._read_pyc(file, compiled_of(file)) is None


def test_a_file_that_is_no_python_is_left_to_the_run(tmp_path: Path) -> None:
    for name in ("test_bad.py", "bad.py"):
        (tmp_path / name).write_text("def :")
        compile_file(tmp_path / name)
    assert not [*tmp_path.rglob("*.pyc")]
