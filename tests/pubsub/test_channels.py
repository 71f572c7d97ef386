import pytest

from sstream.pubsub import ChannelOptions, History
from sstream.pubsub.channels import PLAIN, history_of, options_of


@pytest.mark.parametrize("history", [(10, 60), History(10, 60)])
def test_history_may_be_a_pair(history):
    assert history_of("channel:lobby", lambda name: ChannelOptions(history=history)) == History(10, 60)


def test_only_channels_have_options():
    def channel_options(name):
        raise AssertionError(name)

    assert options_of("user:42", channel_options) is PLAIN
    assert history_of("all", channel_options) is None


def test_options_are_asked_by_the_name_of_the_channel():
    assert options_of("channel:lobby", lambda name: ChannelOptions(presence=name == "lobby")).presence


@pytest.mark.parametrize("size_and_seconds", [(0, 60), (10, 0), (-1, 60)])
def test_history_of_nothing_is_refused(size_and_seconds):
    with pytest.raises(ValueError, match="at least one"):
        History(*size_and_seconds)
