"""Files for a broker that the server does not run: configuration, access rules, CAs and certificates, one module a kind of broker."""
