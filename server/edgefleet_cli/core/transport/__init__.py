"""Requests to the server's API and their answers: the client, replies, problems, retries and event streams."""
