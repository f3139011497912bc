"""`edgectl bundle` and `edgectl model pull`: signed bundles at the server and bundle files here."""
