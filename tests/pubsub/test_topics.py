import string

import pytest
from hypothesis import given, strategies as st

from sstream.pubsub.topics import ALL, MAX_NAME, channel_of, channel_topic, socket_topic, user_topic

PATTERNS = set("*?[]\\^{}") | set(string.whitespace) | {"\0", "%"}


@pytest.mark.parametrize("make", [channel_topic, socket_topic])
@pytest.mark.parametrize("name", ["", "*", "a*", "lobby?", "[ab]", "{tag}", "a b", "a\n", "\0", "ä", "a" * 257, "%41"])
def test_illegal_name_is_refused(make, name):
    with pytest.raises(ValueError, match="is no name for a"):
        make(name)


def test_refusal_of_a_long_name_is_short():
    with pytest.raises(ValueError, match="is no name") as caught:
        channel_topic("a" * 1_000_000)

    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("name", ["lobby", "order-123", "a@b.example", "x/y:z", "A" * MAX_NAME, "(1,2)~#!$&=+|"])
def test_legal_name_stays_as_it_is(name):
    assert channel_topic(name) == f"channel:{name}"
    assert socket_topic(name) == f"socket:{name}"


@pytest.mark.parametrize(
    ("user", "topic"),
    [(42, "user:42"), ("fred@example.com", "user:fred@example.com"), ("Jürgen *", "user:J%C3%BCrgen%20%2A")],
)
def test_user_id_is_percent_encoded(user, topic):
    assert user_topic(user) == topic


@pytest.mark.parametrize("user", [None, True, "", 1.5, b"42", "ä" * 100, "\ud800"])
def test_what_is_no_user_is_refused(user):
    with pytest.raises(ValueError, match="user id"):
        user_topic(user)


@given(st.text(max_size=300))
def test_no_pattern_and_no_tag_ever_gets_into_a_topic(name):
    for make in (channel_topic, socket_topic, user_topic):
        try:
            topic = make(name)
        except ValueError:
            continue
        assert not set(topic) & (PATTERNS - {"%"})
        assert topic.isascii()


@given(st.lists(st.text(min_size=1, max_size=40), min_size=2, max_size=2, unique=True))
def test_two_users_never_share_a_topic(users):
    topics = set()
    for user in users:
        try:
            topics.add(user_topic(user))
        except ValueError:  # a lone surrogate
            return

    assert len(topics) == 2


def test_only_a_channel_has_a_channel():
    assert channel_of("channel:lobby:1") == "lobby:1"
    assert [channel_of(topic) for topic in (ALL, "user:1", "socket:1")] == [None, None, None]
