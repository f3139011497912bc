"""Pages of settings: this server, tokens, webhooks, and how a browser shows its pages."""
