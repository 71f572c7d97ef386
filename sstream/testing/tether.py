"""Run a command that dies with its parent: ``python tether.py PARENT COMMAND [ARGUMENT...]``.

The process becomes the command, so its pid is the command's. A ``preexec_fn`` would do the same inside the fork,
which is not safe in a process with threads.
"""

import ctypes
import os
import signal
import sys

__all__: list[str] = []

PR_SET_PDEATHSIG = 1  # linux/prctl.h

if __name__ == "__main__":
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The parent may have died before prctl: no signal will come for that.
        if os.getppid() != parent:
            sys.exit("the parent is gone")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")
