"""Every Python block in the documentation runs."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
FILE = re.compile(r"# \S+/\S+\.py$", re.MULTILINE)  # a file of docs/testing.md: tests/testing/test_styles.py runs it
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in sorted(DOCS.glob("*.md"))
    if page.stem != "reference-publish-format"  # its block wants a Redis; tests/pubsub/test_redis.py runs it
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL), 1)
    if not FILE.match(block)
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_the_documentation_runs_by_itself(block: str) -> None:
    exec(compile(block, "documentation", "exec"), {"__name__": "documentation"})
