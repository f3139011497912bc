"""`edgectl server backup`, `verify-backup`, `restore` and `migrate`: the work is done by a process of the server (ADR 0151)."""
