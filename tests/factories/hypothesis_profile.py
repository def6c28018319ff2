"""No deadline: the time of one example means nothing on a machine that also runs a cluster."""

import hypothesis

hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")
