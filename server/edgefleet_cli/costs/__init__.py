"""What models and groups cost, and the prices that money is counted by."""
