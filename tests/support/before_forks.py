"""What the server of `programs` does once, before it forks: as `session.py` does for the tests."""

import gc

from tests.support import tracing

tracing.share_one_stack()
tracing.leave_data_untuned()
gc.collect()
gc.freeze()
gc.set_threshold(20_000, 10, 10)
