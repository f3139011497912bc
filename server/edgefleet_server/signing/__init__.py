"""Keys, the TUF repository, signed desired documents and the device CA: the only place with private keys."""
