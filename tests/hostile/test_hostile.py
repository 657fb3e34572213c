"""A little of what `scripts/hostile.py` and `scripts/fuzz.py` do for hours."""

from hypothesis import settings
from living import Living

TestLiving = Living.TestCase
TestLiving.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
