"""A real OpenID provider for tests: `oidc-provider` of npm, in the version of package-lock.json."""
