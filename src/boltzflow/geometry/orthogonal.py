"""Random orthogonal matrices."""

import numpy as np
from jaxtyping import Float


def haar(generator: np.random.Generator, count: int, dimension: int, *, determinant: float | None = None) -> Float[np.ndarray, "n D D"]:
    """Orthogonal matrices drawn uniformly, that is from the Haar measure of O(D).

    Args:
        generator: gives `count` · D² standard normal numbers.
        count: number of matrices n.
        dimension: D.
        determinant: 1 for rotations alone, -1 for those with a reflection; None for both.
    """
    orthogonal, triangular = np.linalg.qr(generator.standard_normal((count, dimension, dimension)))
    # Of the many QR decompositions that with a positive diagonal of R is uniform (Mezzadri, 2007).
    orthogonal = orthogonal * np.sign(np.diagonal(triangular, axis1=1, axis2=2))[:, None, :]
    if determinant is not None:
        orthogonal[:, :, 0] *= determinant * np.sign(np.linalg.det(orthogonal))[:, None]
    return orthogonal
