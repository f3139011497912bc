"""`edgectl explain`: which inputs made the answer to one captured sample."""
