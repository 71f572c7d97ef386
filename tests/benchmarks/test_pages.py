"""README and the page on performance say what the stored run says."""

import json
import re
from typing import Any

import pytest

from benchmarks import report
from benchmarks.figures import GOALS, value


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return json.loads(report.STORED.read_text(encoding="utf-8"))


def test_readme_and_docs_say_what_the_stored_run_says(stored: dict[str, Any]) -> None:
    assert report.stale(stored) == []


def test_a_typed_figure_is_noticed(stored: dict[str, Any]) -> None:
    page = report.PAGES[0].read_text(encoding="utf-8")
    figure = f"{round((value(stored, 'small_16', 'tornado') or 0) / 1e3):,}"
    block = page[page.index("<!-- benchmarks: readme") : page.index("<!-- end -->")]

    assert f"| {figure} |" in block
    assert report.filled(page.replace(f"| {figure} |", "| 12345 |"), stored) == page


def test_every_goal_was_measured_in_the_stored_run_or_the_page_says_what_failed(stored: dict[str, Any]) -> None:
    unmeasured = [goal.what for goal in GOALS if goal.find(stored) is None]

    assert unmeasured == [] or "\nFailed: " in report.machine(stored)


def test_pictures_of_the_stored_run_are_in_the_docs_and_fit_light_and_dark_pages() -> None:
    page = (report.ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    names = re.findall(r"\]\(performance/(\w+\.svg)\)", page)

    assert sorted(names) == sorted(file.name for file in report.PICTURES.glob("*.svg"))
    for name in names:
        text = (report.PICTURES / name).read_text(encoding="utf-8")
        assert "prefers-color-scheme: dark" in text
        assert "currentColor" in text
