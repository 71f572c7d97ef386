"""What ``module:name`` means, and what is said where it means nothing."""

import re
import sys

import pytest

from sstream.__main__ import main


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("nowhere", "'nowhere' is not of the form module:name"),
        ("nowhere.at_all:app", "there is no module 'nowhere.at_all'"),
        ("tests.rpc.described:nothing", "there is no 'nothing' in tests.rpc.described"),
        ("tests.rpc.described:Item", "is neither an Application nor an RPCHandler class"),
    ],
)
def test_target_that_is_none_is_told_in_one_line(capsys, target, text):
    assert main(["describe", target]) == 2

    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


BROKEN = """
def fail():
    raise ValueError("no tea")

async def fail_later():
    raise ValueError("no tea")
"""


@pytest.mark.parametrize(
    ("text", "name", "last"),
    [
        ("import no_such_leaves\n", "app", "ModuleNotFoundError: No module named 'no_such_leaves'"),
        ("def brew(:\n", "app", "SyntaxError: invalid syntax"),
        (BROKEN + "fail()\n", "app", "ValueError: no tea"),
        (BROKEN, "fail", "ValueError: no tea"),
        (BROKEN, "fail_later", "ValueError: no tea"),
    ],
)
def test_of_code_that_fails_its_own_traceback_alone_is_shown(tmp_path, monkeypatch, capfd, text, name, last):
    module = tmp_path / "teapot.py"
    module.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "teapot", raising=False)

    assert main(["run", f"teapot:{name}", "--port", "0"]) == 1

    error = capfd.readouterr().err
    assert error.startswith(f"sstream: 'teapot:{name}' cannot be loaded:\n\n")
    assert error.endswith(f"{last}\n")
    assert re.findall(r'File "([^"]+)"', error) == [str(module)] * error.count("File")
