"""`edgectl convert`, and what it shares with `publish`: the model's files, the options of a conversion and the tool
environments.
"""
