"""`edgectl device metrics`: telemetry windows of one device as rows and as lines of bars."""
