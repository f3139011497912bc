"""The event log of the server: what happened, how it is stored, followed and streamed.

It lies below the fleet: fleet, rollouts, webhooks and the dashboard use it.
"""
