"""Tasks of the desired document: `rules` says what is due, `task_runner` starts and records it; the work itself is in
`diagnostics`.
"""
