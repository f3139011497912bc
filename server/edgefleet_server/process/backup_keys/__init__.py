"""Keys in a backup: the archive that holds them, and what seals it: a passphrase, or the public half of a key pair (ADR 0151, 0155)."""
