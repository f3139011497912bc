"""Rollouts in virtual time: the shipped planner and the shipped device machine, joined by a network that loses, doubles and reorders.

- Nothing here decides: the server's side is `edgefleet_server.rollout` (planner, commands, tables), a device is
  `edgefleet_agent.install` (`desired_diff`, `machine`). Simulated are the rows and documents (`memory_database`), the replicas and the wire
  (`world`), and what hardware does (`device`).
- One seed gives one story: no clock, no thread, no hash order takes part. A failure is made again by its seed, and made smaller
  (`shrinker`).
- It stands above server and agent and is imported by neither: `edgectl sim` starts `python -m edgefleet_sim` (ADR 0042).
"""
