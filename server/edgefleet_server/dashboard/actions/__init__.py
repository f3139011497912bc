"""Changing something from a page: the one route that calls an operation of the API, its command preview, and the sentence
afterwards.
"""
