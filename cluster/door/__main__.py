"""``python -m cluster.door [leader sockets…]``: supervise this host's door; the arguments are those of a standby."""

import logging
import os
import sys

from cluster.door import supervisor
from cluster.permissions import PRIVATE_UMASK
from cluster.settings import load_settings

if __name__ == "__main__":
    os.umask(PRIVATE_UMASK)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    leader, *listeners = [int(argument) for argument in sys.argv[1:]] or [0]
    supervisor.run(load_settings(), leader, tuple(listeners))
