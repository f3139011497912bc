"""`edgectl fleet | events | group | search | top`: the fleet as a whole, what happened in it, and how to find things."""
