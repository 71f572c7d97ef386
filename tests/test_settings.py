"""Options from the environment and from ``tornado.options``: what comes first, what is legal, what is told."""

import pickle
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tornado.options
from tornado.options import OptionParser

from sstream import Application, ConfigurationError, Limits, MemoryStore, RedisBroker, RedisStore, SessionOptions
from sstream.__main__ import main
from sstream.settings import all_settings, fill, read, without_password

SECRET = "a test's own secret"
PAGE = Path(__file__).parents[1] / "docs/reference-settings.md"
SETTINGS = {setting.variable: setting for setting in all_settings(Application)}


def make_app(**keywords: Any) -> Application:
    return Application([], **{"session": SessionOptions(secret=SECRET), "store": MemoryStore(), **keywords})


@pytest.fixture(autouse=True)
def quiet(expect_log: Callable[..., Any]) -> None:
    expect_log("sessions are kept in memory", required=False)


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``command_line("--sstream-redis=...")``: what ``tornado.options`` has read."""

    def parse(*words: str) -> None:
        parser = OptionParser()
        monkeypatch.setattr(tornado.options, "options", parser)
        Application.define_options(parser)
        parser.parse_command_line(["program", *words])

    return parse


# --- which comes first ------------------------------------------------------------------------------------------------


def test_keyword_comes_before_environment_before_tornado_options_before_default(
    monkeypatch: pytest.MonkeyPatch, command_line: Callable[..., None]
) -> None:
    assert make_app().limits.drain == 30.0

    command_line("--sstream-limits-drain=7")
    assert make_app().limits.drain == 7.0

    monkeypatch.setenv("SSTREAM_LIMITS_DRAIN", "8")
    assert make_app().limits.drain == 8.0

    assert make_app(limits=Limits(drain=9.0)).limits.drain == 9.0


def test_an_option_that_is_given_its_default_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSTREAM_LIMITS_DRAIN", "8")
    monkeypatch.setenv("SSTREAM_LIMITS_CHANNELS", "5")
    monkeypatch.setenv("SSTREAM_PRODUCTION", "true")

    app = make_app(limits=Limits(drain=30.0, call_timeout=None), production=False)

    assert (app.limits.drain, app.limits.call_timeout, app.production) == (30.0, None, False)
    assert app.limits.channels == 5


def test_session_options_in_code_leave_the_secret_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSTREAM_SESSION_SECRET", "the new one of today, the old one of yesterday\n")

    options = make_app(session=SessionOptions(max_age=60).host_only()).sessions.options

    assert options.secrets == ("the new one of today", "the old one of yesterday")
    assert (options.max_age, options.name) == (60, "__Host-connect.sid")


def test_options_by_themselves_are_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSTREAM_LIMITS_DRAIN", "8")

    assert Limits().drain == 30.0


def test_copies_know_what_was_given() -> None:
    limits = Limits(drain=30.0)

    assert copy(limits).given == pickle.loads(pickle.dumps(limits)).given == {"drain"}
    assert limits.but(channels=3).given == {"drain", "channels"}
    assert "depth" in replace(limits, channels=3).given
    assert limits == Limits()


@pytest.mark.parametrize("text", ["", "  "])
def test_a_variable_that_is_empty_is_not_set(
    monkeypatch: pytest.MonkeyPatch, command_line: Callable[..., None], text: str
) -> None:
    command_line("--sstream-limits-drain=7")
    monkeypatch.setenv("SSTREAM_LIMITS_DRAIN", text)

    assert make_app().limits.drain == 7.0


async def test_redis_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSTREAM_REDIS", "redis://127.0.0.1:1/0")

    app = Application([], session=SessionOptions(secret=SECRET), production=True)

    assert (type(app.store), type(app.broker)) == (RedisStore, RedisBroker)
    await app.close()


def test_redis_in_code_comes_before_a_store_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSTREAM_STORE", "no URL, and never looked at")

    app = make_app(store=None, redis="redis://127.0.0.1:1/0")

    assert isinstance(app.store, RedisStore)


def test_what_an_application_defines_for_itself_in_tornado_options_may_have_a_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parser = OptionParser()
    parser.define("sstream_limits_drain", default=4.5)
    monkeypatch.setattr(tornado.options, "options", parser)

    assert make_app().limits.drain == 4.5


# --- what is legal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("SSTREAM_LIMITS_DRAIN", "2.5", 2.5),
        ("SSTREAM_LIMITS_DRAIN", " NONE ", None),
        ("SSTREAM_LIMITS_CHANNELS", "12", 12),
        ("SSTREAM_SESSION_ROLLING", "Yes", True),
        ("SSTREAM_SESSION_ROLLING", "0", False),
        ("SSTREAM_SESSION_SECURE", "auto", "auto"),
        ("SSTREAM_SESSION_SECURE", "true", True),
        ("SSTREAM_SESSION_SAME_SITE", "none", "none"),
        ("SSTREAM_SESSION_PRIORITY", "high", "high"),
        ("SSTREAM_SESSION_PRIORITY", "none", None),
        ("SSTREAM_SESSION_UNSET", "destroy", "destroy"),
        ("SSTREAM_SESSION_PATH", "/shop", "/shop"),
        ("SSTREAM_SESSION_SECRET", "one", ("one",)),
        ("SSTREAM_SESSION_SECRET", "one\n two,three ,\n", ("one", "two", "three")),
        ("SSTREAM_TRUSTED_ORIGINS", "https://a.example,https://b.example", ("https://a.example", "https://b.example")),
    ],
)
def test_texts_mean_values(variable: str, text: str, value: Any) -> None:
    parsed = SETTINGS[variable].parse(text)

    assert (type(parsed), parsed) == (type(value), value)


@pytest.mark.parametrize(
    ("variable", "text", "legal"),
    [
        ("SSTREAM_LIMITS_DRAIN", "30s", "a number, none: Seconds that calls in flight get"),
        ("SSTREAM_LIMITS_DRAIN", "nan", "a number, none"),
        ("SSTREAM_LIMITS_DRAIN", "inf", "a number, none"),
        ("SSTREAM_LIMITS_CHANNELS", "2.5", "a whole number, none"),
        ("SSTREAM_SESSION_MAX_AGE", "none", "a whole number: Seconds a session lives"),
        ("SSTREAM_SESSION_ROLLING", "maybe", "true, false"),
        ("SSTREAM_SESSION_SECURE", "always", "auto, true, false"),
        ("SSTREAM_SESSION_UNSET", "forget", "keep, destroy"),
        ("SSTREAM_PRODUCTION", "2", "true, false"),
    ],
)
def test_a_text_that_means_nothing_is_refused_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, legal: str
) -> None:
    monkeypatch.setenv(variable, text)

    with pytest.raises(ConfigurationError) as caught:
        make_app()

    assert str(caught.value).startswith(f"{variable}={text!r}; legal are {legal}")


def test_the_command_line_is_named_where_it_is_wrong(command_line: Callable[..., None]) -> None:
    command_line("--sstream-limits-channels=many")

    with pytest.raises(ConfigurationError, match=r"^--sstream-limits-channels='many'; legal are a whole number"):
        make_app()


def test_a_value_that_cannot_work_is_refused_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSTREAM_LIMITS_CHANNELS", "-3")
    monkeypatch.setenv("SSTREAM_LIMITS_DRAIN", "5")

    with pytest.raises(ConfigurationError, match=r"^SSTREAM_LIMITS_CHANNELS: channels=-3; legal are numbers above 0"):
        make_app()


def test_values_that_cannot_work_together_are_refused_by_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSTREAM_SESSION_SAME_SITE", "none")
    monkeypatch.setenv("SSTREAM_SESSION_SECURE", "false")
    monkeypatch.setenv("SSTREAM_SESSION_MAX_AGE", "60")

    with pytest.raises(
        ConfigurationError, match=r'^SSTREAM_SESSION_SECURE and SSTREAM_SESSION_SAME_SITE: same_site="none" needs'
    ):
        make_app()


def test_a_secret_of_commas_alone_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSTREAM_SESSION_SECRET", " , ")

    with pytest.raises(ConfigurationError, match="^SSTREAM_SESSION_SECRET: secret is empty"):
        make_app(session=None)


@pytest.mark.parametrize(
    ("variable", "question"),
    [
        ("SSTREAM_SESSION_SECRETS", "; do you mean SSTREAM_SESSION_SECRET?"),
        ("SSTREAM_LIMITS_DARIN", "; do you mean SSTREAM_LIMITS_DRAIN?"),
        ("SSTREAM_SESSION_COLOUR_OF_THE_DOOR", ""),
    ],
)
def test_a_name_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, question: str) -> None:
    monkeypatch.setenv(variable, "60")

    with pytest.raises(ConfigurationError) as caught:
        make_app()

    assert str(caught.value) == f"{variable} is no setting{question}"


def test_what_no_text_can_say_is_given_in_code_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSTREAM_SESSION_GENID", "uuid4")

    with pytest.raises(ConfigurationError, match=r"^SSTREAM_SESSION_GENID cannot .* give SessionOptions\(genid=\)"):
        make_app()


@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "60"])
def test_limits_refuse_what_is_none(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^drain=.*; legal are numbers above 0, and None"):
        Limits(drain=value)


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSTREAM_SESSION_SECRET", "hush hush hush hush")
    monkeypatch.setenv("SSTREAM_REDIS", "redis://ada:hush@redis.example:6379/0?password=hush")
    monkeypatch.setenv("SSTREAM_STORE", "redis://[hush")
    monkeypatch.setenv("SSTREAM_BROKER", "redis://redis.example/0")
    monkeypatch.setenv("SSTREAM_DEBUG", "on")

    shown = {name: one.shown for name, one in read(Application).items()}
    shown |= {name: one.shown for name, one in read(SessionOptions, "SSTREAM_SESSION_").items()}

    assert shown == {
        "redis": "redis://***@redis.example:6379/0",
        "store": "(not shown)",
        "broker": "redis://redis.example/0",
        "debug": "True",
        "secret": "(not shown)",
    }


@pytest.mark.parametrize(
    "url",
    [
        "unix:///run/redis.sock?db=0&password=hush",
        "redis://localhost:6379/0?username=hush&password=hush",
        "redis://localhost:6379/0?password=a@hush",
        "redis://ada:hush/hush@localhost:6379",
        "redis://ada:hush?hush@localhost:6379",
        "redis://ada:hush#hush@localhost:6379",
        "redis://ada:hush@hush@localhost:6379",
    ],
)
def test_a_password_is_not_shown_wherever_it_stands(url: str) -> None:
    assert "hush" not in without_password(url)


def test_every_setting_says_what_it_means() -> None:
    assert not [setting.code for setting in SETTINGS.values() if not setting.text]


def test_every_default_can_be_written_as_text() -> None:
    for setting in SETTINGS.values():
        if setting.is_text and setting.default is not None:
            parsed = setting.parse(str(setting.default))
            assert parsed == setting.default or parsed == (setting.default,), setting.variable


def test_every_option_of_limits_and_sessions_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSTREAM_LIMITS_STORE_DEADLINE")  # set for all tests

    for options, prefix in ((Limits(), "SSTREAM_LIMITS_"), (SessionOptions(), "SSTREAM_SESSION_")):
        names = {name for name in type(options).__dataclass_fields__ if name != "given"}
        assert {setting.name for setting in SETTINGS.values() if setting.variable.startswith(prefix)} == names
        assert fill(options, prefix) is options


def test_the_page_in_the_documentation_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings"]) == 0

    written = capsys.readouterr().out
    assert written == PAGE.read_text(encoding="utf-8"), "python -m sstream settings -o docs/reference-settings.md"


def test_the_page_can_be_written_to_a_file(tmp_path: Path) -> None:
    assert main(["settings", "--output", str(tmp_path / "settings.md")]) == 0

    assert (tmp_path / "settings.md").read_text(encoding="utf-8").startswith("# Settings\n")
