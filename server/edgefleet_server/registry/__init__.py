"""Models, releases, bundles and the content-addressed blob store."""
