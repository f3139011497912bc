"""What devices report: taking reports in, reading them for many devices at once, and recovery after a restored backup."""
