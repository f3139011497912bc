"""`edgectl server broker-files`, `broker-trust` and `check broker`: a broker that the server does not run (ADR 0150, ADR 0172)."""
