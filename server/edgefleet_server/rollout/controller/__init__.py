"""The control loop: claims rollouts that are due, reconciles each, and asks the webhooks that are due."""
