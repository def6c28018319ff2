"""How long one example takes says nothing on a machine that also runs a cluster: no deadline."""

import hypothesis

hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")
