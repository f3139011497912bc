"""Pages of models, releases, bundles and profiles, and publishing from a browser."""
