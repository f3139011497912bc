"""The demo: a whole fleet on this machine, from nothing to models answering on devices."""
