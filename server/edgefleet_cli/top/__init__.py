"""`edgectl top`: the fleet on one screen, live with Textual where it is installed, else plain."""
