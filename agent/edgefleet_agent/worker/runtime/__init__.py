"""The life of one worker process: load, prove, wait, serve, drain. Only the worker imports it."""
