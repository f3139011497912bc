"""`edgectl device`: find devices, see what each runs and why, let new ones in, label, measure and remove them."""
