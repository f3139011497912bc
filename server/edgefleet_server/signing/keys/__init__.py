"""Private keys: which there are, where each lies, and the one object that signs with them."""
