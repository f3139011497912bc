"""What every command of `edgectl` works with: options, session, contexts, the REST client, errors and exit codes.

Imports nothing by itself, so that a command loads only what it uses.
"""
