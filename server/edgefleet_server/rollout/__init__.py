"""Staged rollouts: who gets a release when, judged on evidence, stopped and taken back when it is bad."""
