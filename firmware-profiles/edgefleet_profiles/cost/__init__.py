"""What a model will cost on a board: fitted to what devices reported, always with its error, or no estimate at all.

`observed` makes one observation of a model out of devices' windows; `regression` fits one quantity; `model` holds the fits of one
profile and predicts. Pure: no I/O, no clock, the standard library alone, because the server uses it.
"""
