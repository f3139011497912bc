"""Tool environments: Python environments of their own for heavy converters, run as processes and never imported."""
