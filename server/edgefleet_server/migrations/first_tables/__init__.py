"""The tables of step 1001, by feature. Never changed: a later step changes what is in a database."""
