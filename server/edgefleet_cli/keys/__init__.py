"""Offline keys: made on media, used there to sign requests, and the ceremony that gives them root and targets of a fleet."""
