"""What runs edgefleet elsewhere: chart, compose files, proxies, Terraform."""
