"""``python -m cluster.door [leader sockets…]``: supervise this host's door; the arguments are those of a standby."""

import logging
import os
import sys
from pathlib import Path

from cluster.door import supervisor
from cluster.node.environment import NODE_DOOR_VARIABLE
from cluster.permissions import PRIVATE_UMASK
from cluster.settings import load_settings

if __name__ == "__main__":
    os.umask(PRIVATE_UMASK)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    if os.environ.get(NODE_DOOR_VARIABLE):
        # A name that `ray stop` looks for. HAProxy needs none: its supervisor ends it.
        Path("/proc/self/comm").write_text("ray::door")
    leader, *listeners = [int(argument) for argument in sys.argv[1:]] or [0]
    supervisor.run(load_settings(), leader, tuple(listeners))
