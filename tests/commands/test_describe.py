"""What ``describe`` writes down, and where."""

import json

import pytest

from sstream.__main__ import main


@pytest.mark.parametrize(
    ("form", "beginning"), [("--typescript", "// Written by"), ("--markdown", "# `"), ("--json", "{\n")]
)
def test_describe_writes_each_form_to_a_file(tmp_path, capsys, form, beginning):
    file = tmp_path / "description"

    assert main(["describe", "tests.rpc.described:Live", form, "--output", str(file)]) == 0

    assert file.read_text(encoding="utf-8").startswith(beginning)
    assert capsys.readouterr().out == ""


def test_application_without_sockets_is_told(capsys):
    assert main(["describe", "tornado.web:Application"]) == 2

    assert "is neither an Application nor" in capsys.readouterr().err


def test_all_routes_are_found(capsys, expect_log):
    expect_log("", required=False)

    assert main(["describe", "tests.rpc.described:make_two"]) == 0

    assert [socket["path"] for socket in json.loads(capsys.readouterr().out)["sockets"]] == ["/ws", "/admin"]


def test_what_sstream_serves_by_itself_is_not_described(capsys, monkeypatch):
    monkeypatch.setenv("SSTREAM_DEBUG", "true")  # then there is an inspector

    assert main(["describe", "tests.rpc.described:make_two"]) == 0

    assert [socket["path"] for socket in json.loads(capsys.readouterr().out)["sockets"]] == ["/ws", "/admin"]
