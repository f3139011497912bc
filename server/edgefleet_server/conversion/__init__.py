"""Conversion jobs: the queue, the worker process and the sandboxed child that runs the converters."""
