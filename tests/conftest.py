"""For all tests: nothing of the terminal they were started from."""

from __future__ import annotations

import os

os.environ.pop("COLUMNS", None)  # a parallel run sets it for its workers; edgectl's tables would be cut to it
