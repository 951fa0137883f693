"""`python -m pokeidm` is the command `pokeidm`."""
import sys
from pokeidm.cli import main

sys.exit(main())
