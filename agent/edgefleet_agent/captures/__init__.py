"""agentd's side of prediction log and captures: files bounded in bytes and days, and what is sent while somebody watches the
device.
"""
