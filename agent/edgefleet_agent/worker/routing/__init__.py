"""Which worker answers a request: the routing table, the split between lanes, and the way to another worker's socket."""
