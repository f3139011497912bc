"""The signing process: the only one that reads private keys, what it may sign, and how the server asks it."""
