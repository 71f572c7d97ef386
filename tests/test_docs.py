"""Every Python block in the documentation runs, and all pages build."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
# Elsewhere: what wants a Redis runs in tests/pubsub/test_redis.py, what are files in tests/test_tutorial.py and, of
# docs/testing.md, in tests/testing/test_styles.py.
ELSEWHERE = {"reference-publish-format", "tutorial"}
FILE = re.compile(r"# \S+/\S+\.py$", re.MULTILINE)
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in sorted(DOCS.glob("*.md"))
    if page.stem not in ELSEWHERE
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL), 1)
    if not FILE.match(block)
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_the_documentation_runs_by_itself(block: str) -> None:
    exec(compile(block, "documentation", "exec"), {"__name__": "documentation"})


def test_all_pages_build_without_a_warning(tmp_path: Path) -> None:
    sphinx = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "trees"]

    done = subprocess.run([*sphinx, DOCS, tmp_path / "html"], capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr
    assert "autoclass" not in (tmp_path / "html" / "api.html").read_text()
