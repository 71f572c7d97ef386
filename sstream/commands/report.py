"""Findings, a line each, with a mark in front that says how it stands."""

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "Mark", "print_report"]

_WIDTH = 100


class Mark(Enum):
    """How it stands, and how a terminal that knows no more than ASCII shows it."""

    GOOD = "✓", "ok"
    NOTE = "·", "--"
    DOUBT = "!", "!"
    WRONG = "✗", "X"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and what was seen."""

    mark: Mark
    subject: str
    text: str


def print_report(title: str, findings: Sequence[Finding]) -> None:
    """Print all findings, and how many of them are bad."""
    is_plain = not _can_print("".join(mark.value[0] for mark in Mark))
    width = max(len(finding.subject) for finding in findings) + 2
    _print(title, "")
    for finding in findings:
        mark = finding.mark.value[is_plain].ljust(2)
        first, *rest = textwrap.wrap(
            finding.text, max(_WIDTH - width - 3, 40), break_long_words=False, break_on_hyphens=False
        )
        _print(f"{mark} {finding.subject.ljust(width)}{first}", *(f"{'':{width + 3}}{line}" for line in rest))
    wrong, doubtful = (sum(finding.mark is mark for finding in findings) for mark in (Mark.WRONG, Mark.DOUBT))
    parts = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in ((wrong, "error"), (doubtful, "warning"))]
    _print("", "all is well" if not wrong and not doubtful else ", ".join(parts))


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _print(*lines: str) -> None:
    for line in lines:
        encoding = sys.stdout.encoding or "utf-8"
        print(line.encode(encoding, "replace").decode(encoding).rstrip())  # noqa: T201, this is a program
