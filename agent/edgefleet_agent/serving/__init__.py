"""The inference workers of all models: which serves, which is on trial, which drains, and how their processes are started and
replaced.
"""
