"""Models that live elsewhere: an address becomes a local file or folder, and where it came from is sent with the release."""
