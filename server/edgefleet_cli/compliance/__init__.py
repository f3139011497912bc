"""`edgectl report`: the evidence of a model in one archive, and the check of such an archive without a server."""
