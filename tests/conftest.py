"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# How long an example takes says more about the machine than about the code. The same examples every time, so that a failure
# is somebody's doing; HYPOTHESIS_PROFILE=long (and "explore") look further, at others each time.
settings.register_profile("default", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.register_profile("long", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
