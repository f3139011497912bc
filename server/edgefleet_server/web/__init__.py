"""What every HTTP route shares: problem documents, pages of lists, preconditions, bounds of bodies. Knows no feature."""
