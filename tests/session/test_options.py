"""What may be asked of sessions, and what is refused at once instead of failing later."""

import dataclasses
import json
import re

import pytest

from sstream.errors import ConfigurationError
from sstream.session.options import DEFAULT_SECRET, SessionOptions

from .vectors import VECTORS

NAMES = {
    "sameSite": "same_site",
    "httpOnly": "http_only",
}


def test_the_defaults_are_those_of_the_original():
    options = SessionOptions()

    assert options.secrets == (DEFAULT_SECRET,) == ("SocketStream",)
    assert (options.name, options.prefix, options.max_age) == ("connect.sid", "sess:", 30 * 86400)
    assert (options.absolute_max_age, options.persistent, options.rolling) == (None, False, False)
    assert (options.http_only, options.secure, options.same_site, options.path) == (True, "auto", "lax", "/")


def test_a_new_id_has_24_random_bytes_as_base64url():
    ids = {SessionOptions().genid() for _ in range(1000)}

    assert len(ids) == 1000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{32}", sid) for sid in ids)


def test_options_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SessionOptions().max_age = 5


def test_one_secret_or_several():
    assert SessionOptions(secret="one").secrets == ("one",)
    assert SessionOptions(secret=["new", "old"]).secrets == ("new", "old")


@pytest.mark.parametrize("vector", VECTORS["newCookies"], ids=lambda vector: json.dumps(vector["options"]))
def test_a_new_cookie_has_the_attributes_that_express_gives_it(vector):
    # Express leaves out what it was not told, where we have safe defaults.
    told = {"secure": False, "same_site": False} | {
        NAMES.get(name, name): value for name, value in vector["options"].items()
    }

    fields = SessionOptions(**told).cookie(vector["encrypted"])

    # `false` says the same as nothing.
    expected = {
        key: value for key, value in json.loads(vector["text"]).items() if key == "httpOnly" or value is not False
    }
    assert list(fields.items()) == list(expected.items())


def test_the_cookie_is_secure_by_itself_over_https():
    assert "secure" not in SessionOptions().cookie(False)
    assert SessionOptions().cookie(True)["secure"] is True


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("secret", "", "secret is empty"),
        ("secret", [], "secret is empty"),
        ("secret", ["new", ""], "secret is empty"),
        ("secret", [b"bytes"], "secret is empty or no text"),
        ("secret", b"bytes", "no text"),
        ("secret", "\ud800", "lone surrogate"),
        ("name", "", "no cookie name"),
        ("name", "a b", "no cookie name"),
        ("name", "a=b", "no cookie name"),
        ("name", "a;b", "no cookie name"),
        ("name", "ä", "no cookie name"),
        ("name", "a\r\n", "no cookie name"),
        ("max_age", 0, "ends every session"),
        ("max_age", -1, "ends every session"),
        ("absolute_max_age", 0, "ends every session"),
        ("path", "app", "start with a slash"),
        ("path", "", "start with a slash"),
        ("path", "/a;b", "cannot stand in a cookie"),
        ("path", "/a\nb", "cannot stand in a cookie"),
        ("path", "/ä", "cannot stand in a cookie"),
        ("domain", "a;b", "cannot stand in a cookie"),
        ("domain", "a\r\nb", "cannot stand in a cookie"),
        ("secure", "yes", "legal are True, False, 'auto'"),
        ("same_site", "loose", "legal are"),
        ("priority", "urgent", "legal are None, 'low'"),
        ("unset", "forget", "legal are 'keep', 'destroy'"),
        ("max_size", 0, "1 to 1048576 bytes"),
        ("max_size", 2**21, "1 to 1048576 bytes"),
        ("renew_grace", 0, "at least 1 second"),
    ],
    ids=repr,
)
def test_what_cannot_work_is_refused_by_its_name(option, value, reason):
    with pytest.raises(ConfigurationError) as refused:
        SessionOptions(**{option: value})

    assert option in str(refused.value)
    assert reason in str(refused.value)


def test_a_refused_secret_is_not_told():
    with pytest.raises(ConfigurationError) as refused:
        SessionOptions(secret=["very secret", ""])

    assert "very" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"same_site": "none", "secure": False}, 'same_site="none" needs secure'),
        ({"partitioned": True, "secure": False}, "partitioned needs secure"),
        ({"name": "__Host-sid"}, "needs secure=True"),
        ({"name": "__Host-sid", "secure": True, "path": "/app"}, 'path="/"'),
        ({"name": "__Host-sid", "secure": True, "domain": "example.com"}, "no domain"),
        ({"name": "__Secure-sid"}, "needs secure=True"),
    ],
    ids=lambda value: str(value),
)
def test_cookies_that_browsers_drop_are_refused(options, reason):
    with pytest.raises(ConfigurationError, match=re.escape(reason)):
        SessionOptions(**options)


def test_host_only_is_the_strictest_cookie():
    options = SessionOptions(secret="x", domain="example.com", max_age=60).host_only()

    assert (options.name, options.secure, options.path, options.domain) == ("__Host-connect.sid", True, "/", None)
    assert (options.secrets, options.max_age) == (("x",), 60)


@pytest.mark.parametrize(("max_age", "interval"), [(30 * 86400, 60), (6000, 60), (600, 6), (1, 0.01)])
def test_activity_touches_once_in_a_minute_or_in_a_hundredth_of_the_idle_time(max_age, interval):
    assert SessionOptions(max_age=max_age).touch_interval == interval


@pytest.mark.parametrize(
    ("path", "ticket_path"),
    [("/", "/_sstream/session"), ("/app", "/app/_sstream/session"), ("/a/", "/a/_sstream/session")],
)
def test_tickets_are_traded_where_the_browser_sends_its_cookie(path, ticket_path):
    assert SessionOptions(path=path).ticket_path == ticket_path


def test_secrets_do_not_show_in_a_repr():
    assert "keyboard cat" not in repr(SessionOptions(secret=["keyboard cat"]))
