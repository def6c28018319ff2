"""How properties draw their examples.

No deadline: the time of one example means nothing on a machine that also runs a cluster. The same examples in each run,
so that a change is judged by what it changes; ``make test-slow`` sets RAYLOOP_EXPLORE and draws new ones.
"""

import os

import hypothesis

hypothesis.settings.register_profile("rayloop", deadline=None, derandomize="RAYLOOP_EXPLORE" not in os.environ)
hypothesis.settings.load_profile("rayloop")
