"""Tasks: a network, a head and losses. A task's forward gives the loss and what is worth watching."""
