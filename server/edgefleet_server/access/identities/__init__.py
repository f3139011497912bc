"""Sign-in of people by identity providers (OpenID Connect): identities, and the persons they are linked to."""
