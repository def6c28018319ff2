"""How property tests draw their examples.

There is no deadline: the time of one example means nothing on a machine that also runs a cluster. Each run draws the
same examples, so that only a change can fail a test; ``make test-slow`` sets RAYLOOP_EXPLORE and draws new ones.
"""

import os

import hypothesis

hypothesis.settings.register_profile("rayloop", deadline=None, derandomize="RAYLOOP_EXPLORE" not in os.environ)
hypothesis.settings.load_profile("rayloop")
