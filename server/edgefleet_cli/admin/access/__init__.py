"""`edgectl login | logout | whoami | context | config | token | dashboard`: who this user is, at which server, and with which
token.
"""
