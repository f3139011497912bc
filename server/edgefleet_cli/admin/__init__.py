"""Running a server and what belongs to it: `edgectl server | profile | key | webhook | alert-receiver`."""
