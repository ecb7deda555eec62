"""Read, write and download weights, and build networks with them.

``factory`` has ``create_model``. ``checkpoint`` reads and writes checkpoint folders, whose metadata is a ``card``.
``hub`` finds the published weights.
"""
