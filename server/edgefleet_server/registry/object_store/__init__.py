"""Object stores as a place for blobs: how one is opened, what its refusals mean, what is kept of it here, and a proof that it works."""
