"""Shared settings: no progress bars, no display, and no deadlines on machines that other work shares."""
import os
for name, value in {"TQDM_DISABLE": "1", "MPLBACKEND": "agg", "OMP_WAIT_POLICY": "PASSIVE"}.items(): os.environ.setdefault(name, value)
from hypothesis import settings

settings.register_profile("pokeidm", deadline=None)
settings.load_profile("pokeidm")
