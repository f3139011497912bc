"""ID tokens of OpenID Connect: the keys of their issuers, and what makes a token valid."""
