"""What a cart is."""

from typing import get_args

import pytest

from demo import shop


def test_the_menu_and_the_type_of_its_ids_are_the_same():
    assert list(shop.TEAS) == list(get_args(shop.Tea))


def test_adding_starts_a_cart_and_names_the_writer():
    session: dict = {}

    shop.add(session, "sencha", 2, "page")

    assert session == {"cart": {"sencha": 2}, "lastWriter": "page"}


def test_adding_adds_to_what_is_there():
    session: dict = {"cart": {"sencha": 2, "puer": 1}, "lastWriter": "page"}

    shop.add(session, "sencha", 1, "websocket")

    assert session == {"cart": {"sencha": 3, "puer": 1}, "lastWriter": "websocket"}


@pytest.mark.parametrize(("before", "after"), [({"sencha": 2}, {"sencha": 1}), ({"sencha": 1}, {}), ({}, {})])
def test_removing_takes_one_out_and_no_more_than_there_is(before, after):
    session: dict = {"cart": before}

    shop.remove(session, "sencha", "page")

    assert session["cart"] == after


def test_clearing_empties_the_cart_and_keeps_the_rest():
    session: dict = {"cart": {"puer": 4}, "userId": "fred"}

    shop.clear(session, "websocket")

    assert session == {"cart": {}, "userId": "fred", "lastWriter": "websocket"}


def test_the_total_counts_what_is_on_the_menu():
    assert shop.total({"sencha": 2, "puer": 1, "coffee": 9}) == 2 * 420 + 640
