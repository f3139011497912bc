"""What a release has to have before it may be deployed: policies as files, which the server holds to (ADR 0143)."""
