"""Live pages: one stream a page, and only the parts of it that changed."""
