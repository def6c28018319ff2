"""What every unit test shares."""

from __future__ import annotations

import os

# Ray starts a cluster by itself when something asks for its context. Every later test of the process would find that
# cluster running; without this, such a test fails where it asks.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
