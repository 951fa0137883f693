"""Shared settings: no progress bars, no display, and no deadlines on machines that other work shares."""
import os
os.environ.setdefault("TQDM_DISABLE", "1"); os.environ.setdefault("MPLBACKEND", "agg")
from hypothesis import settings

settings.register_profile("pokeidm", deadline=None)
settings.load_profile("pokeidm")
