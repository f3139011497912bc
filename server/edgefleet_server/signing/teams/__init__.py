"""Models that their teams sign: what teams are asked for, their signatures, and what comes into force with them."""
