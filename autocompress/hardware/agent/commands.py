"""What the agent's archive can be asked to do from a command line."""

import sys
from typing import List

from . import main as requests
from . import supervisor

VERBS = {"start": supervisor.start, "wait": supervisor.wait, "finish": supervisor.finish}


def main(arguments: List[str]) -> int:
    """``REQUEST ANSWER`` answers one request here and now; ``start|wait|finish FOLDER`` is for other machines."""
    if len(arguments) == 2 and arguments[0] in VERBS:
        return VERBS[arguments[0]](arguments[1])
    if len(arguments) != 2:
        sys.stderr.write("usage: python agent.pyz REQUEST ANSWER | start|wait|finish FOLDER\n")
        return 2
    return requests.main(arguments)
