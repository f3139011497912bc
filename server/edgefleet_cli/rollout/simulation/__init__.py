"""What a rollout would do: with faults in virtual time, and how soon it stops a bad release."""
