"""How many rollouts, and what each costs: in the store, of agents that wait, of each environment's agent,
and of agents that go on while learners work."""
