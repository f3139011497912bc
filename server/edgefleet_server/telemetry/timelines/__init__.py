"""Figures over time of the fleet, a model, a group or a device, with what happened meanwhile as marks."""
