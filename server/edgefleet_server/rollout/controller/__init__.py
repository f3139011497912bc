"""The control loop: claims rollouts that are due, reconciles each, carries its plan out, and asks the webhook gates that are due."""
