"""Why latency rose: what changed with it, ranked, with the figures before and after and what speaks against each."""
