"""``python -m sstream.testing node|npm ...``: runs the node that is new enough, or npm under it.

For a Makefile, which cannot know where they are.
"""

import os
import sys

from sstream.testing.tools import ToolMissing, find_node, npm_command

__all__ = ["main"]


def main(arguments: list[str]) -> None:
    """Become that program."""
    try:
        node = find_node()
        if arguments[:1] == ["node"]:
            command = [str(node), *arguments[1:]]
        elif arguments[:1] == ["npm"]:
            command = [*npm_command(), *arguments[1:]]
        else:
            sys.exit("usage: python -m sstream.testing (node|npm) [ARGUMENT...]")
    except ToolMissing as missing:
        sys.exit(str(missing))
    # What npm starts looks for node on PATH.
    path = os.pathsep.join([str(node.parent), os.environ.get("PATH", os.defpath)])
    # The certificates that this machine trusts, for npm too: there may be a proxy between us and the registry.
    os.execve(command[0], command, {"NODE_USE_SYSTEM_CA": "1", **os.environ, "PATH": path})


if __name__ == "__main__":
    main(sys.argv[1:])
