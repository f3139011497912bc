"""Root and targets signed off the server, by several people: requests for signatures, their thresholds, and the step into force."""
