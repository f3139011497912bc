"""The rollout spec: its values, its parser, its normal form and the selector and strategy names it may use. Pure."""
