"""This machine's installation: `edgectl doctor | tool | version | completion`, and the reference page of all commands."""
