"""Energies computed outside JAX: batches on an executor, and the side of it that runs in worker processes.

Nothing here imports JAX, so that a worker process starts in a fraction of a second and holds little memory.
"""
