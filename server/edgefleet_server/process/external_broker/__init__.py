"""What `edgectl server` runs for a broker that is not the server's own: write its files, check it, answer its questions."""
