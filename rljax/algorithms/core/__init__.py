"""What algorithms are made of: the contract, the agent that learns, and the loops, each written once."""
