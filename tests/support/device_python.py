"""Which Python the device side of a test runs on: this one, or an emulated other architecture (`./dev test --arm`).

DEVICE_PYTHON is one executable that takes Python's arguments, so that `sys.executable` in an agent started by it is itself, and its
children run on the same architecture. PATIENCE multiplies how long a test waits: an emulator is 20 to 30 times slower, and nothing
that a test proves is a speed. Without the two variables both mean: this machine, at its own pace.
"""

import os
import sys

PYTHON_VARIABLE = "EDGEFLEET_TEST_DEVICE_PYTHON"
PATIENCE_VARIABLE = "EDGEFLEET_TEST_PATIENCE"

DEVICE_PYTHON = os.environ.get(PYTHON_VARIABLE) or sys.executable
PATIENCE = float(os.environ.get(PATIENCE_VARIABLE) or 1)
IS_EMULATED = sys.executable != DEVICE_PYTHON
