"""What ``module:name`` means, and what is said where it means nothing."""

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
