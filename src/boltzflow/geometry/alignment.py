"""Kabsch alignment for D = 2 and 3, batched and without LAPACK.

The orthogonal matrix R that minimises sum_i |a_i - R b_i|² maximises tr(R S), S = sum_i b_i a_i^T (Kabsch, Acta Cryst. A 32, 922,
1976). In three dimensions tr(R S) = q^T K q for the unit quaternion q of R and a symmetric 4×4 matrix K(S) (Horn, J. Opt. Soc. Am.
A 4, 629, 1987); its eigenvectors are found by Jacobi rotations, which need no care for planar, collinear or vanishing
configurations. A reflection is a rotation times -1 and K(-S) = -K(S), so that the lowest eigenvalue serves the reflections.
"""

import math

import numpy as np
from jaxtyping import Float

from boltzflow.errors import DataError
from boltzflow.geometry._numba import kernel

_JACOBI_SWEEPS = 30  # converges in 4 to 6


@kernel
def jacobi(k, v):
    """Diagonalises a symmetric 4×4 matrix in place by Jacobi rotations; the eigenvectors are the columns of `v`, unsorted.

    A smaller matrix is padded with zeros, which are skipped (a fixed size lets the compiler unroll the loops).

    Args:
        k: (4, 4) float64; on return its diagonal holds the eigenvalues.
        v: (4, 4) float64.
    """
    size = 0.0
    for i in range(4):
        for j in range(4):
            size += k[i, j] * k[i, j]
            v[i, j] = 1.0 if i == j else 0.0
    for _ in range(_JACOBI_SWEEPS):
        off = 0.0
        for i in range(3):
            for j in range(i + 1, 4):
                off += k[i, j] * k[i, j]
        if off <= 1e-26 * size:
            break
        for i in range(3):
            for j in range(i + 1, 4):
                if k[i, j] == 0.0:
                    continue
                theta = 0.5 * (k[j, j] - k[i, i]) / k[i, j]
                if abs(theta) > 1e150:
                    t = 0.5 / theta
                elif theta >= 0.0:
                    t = 1.0 / (theta + math.sqrt(1.0 + theta * theta))
                else:
                    t = 1.0 / (theta - math.sqrt(1.0 + theta * theta))
                c = 1.0 / math.sqrt(1.0 + t * t)
                d = t * c
                for m in range(4):
                    x = k[m, i]
                    y = k[m, j]
                    k[m, i] = c * x - d * y
                    k[m, j] = d * x + c * y
                for m in range(4):
                    x = k[i, m]
                    y = k[j, m]
                    k[i, m] = c * x - d * y
                    k[j, m] = d * x + c * y
                    x = v[m, i]
                    y = v[m, j]
                    v[m, i] = c * x - d * y
                    v[m, j] = d * x + c * y


@kernel
def principal_axes(x, out, work):
    """Writes the principal axes of a configuration about the origin: a proper rotation, columns by falling moment.

    Args:
        x: (N, D) float64, D = 2 or 3.
        out: (D, D) float64.
        work: (8, 4) float64 work space.
    """
    n, dimension = x.shape
    k = work[:4]
    v = work[4:]
    k[:] = 0.0
    for i in range(dimension):
        for j in range(dimension):
            total = 0.0
            for m in range(n):
                total += x[m, i] * x[m, j]
            k[i, j] = total
    jacobi(k, v)
    for c in range(dimension):
        largest = 0
        for j in range(1, dimension):
            if k[j, j] > k[largest, largest]:
                largest = j
        k[largest, largest] = -np.inf  # taken
        for i in range(dimension):
            out[i, c] = v[i, largest]
    if dimension == 2:
        determinant = out[0, 0] * out[1, 1] - out[0, 1] * out[1, 0]
    else:
        determinant = (
            out[0, 0] * (out[1, 1] * out[2, 2] - out[1, 2] * out[2, 1])
            - out[0, 1] * (out[1, 0] * out[2, 2] - out[1, 2] * out[2, 0])
            + out[0, 2] * (out[1, 0] * out[2, 1] - out[1, 1] * out[2, 0])
        )
    if determinant < 0.0:
        for i in range(dimension):
            out[i, dimension - 1] = -out[i, dimension - 1]


@kernel
def overlap(s, dimension, reflections):
    """Largest tr(R S) over the rotations R, or over all orthogonal matrices: the sum of the singular values, the smallest one signed.

    Args:
        s: (D, D) float64.
        dimension: 2 or 3.
        reflections: whether det R = -1 is allowed.
    """
    if dimension == 2:
        proper = math.sqrt((s[0, 0] + s[1, 1]) ** 2 + (s[0, 1] - s[1, 0]) ** 2)
        if not reflections:
            return proper
        return max(proper, math.sqrt((s[0, 0] - s[1, 1]) ** 2 + (s[0, 1] + s[1, 0]) ** 2))
    # Largest eigenvalue of S S^T in closed form (Smith, Commun. ACM 4, 168, 1961).
    a = s[0, 0] * s[0, 0] + s[0, 1] * s[0, 1] + s[0, 2] * s[0, 2]
    b = s[1, 0] * s[1, 0] + s[1, 1] * s[1, 1] + s[1, 2] * s[1, 2]
    c = s[2, 0] * s[2, 0] + s[2, 1] * s[2, 1] + s[2, 2] * s[2, 2]
    d = s[0, 0] * s[1, 0] + s[0, 1] * s[1, 1] + s[0, 2] * s[1, 2]
    e = s[1, 0] * s[2, 0] + s[1, 1] * s[2, 1] + s[1, 2] * s[2, 2]
    f = s[0, 0] * s[2, 0] + s[0, 1] * s[2, 1] + s[0, 2] * s[2, 2]
    mean = (a + b + c) / 3.0
    a -= mean
    b -= mean
    c -= mean
    p = math.sqrt((a * a + b * b + c * c + 2.0 * (d * d + e * e + f * f)) / 6.0)
    determinant = (
        s[0, 0] * (s[1, 1] * s[2, 2] - s[1, 2] * s[2, 1])
        - s[0, 1] * (s[1, 0] * s[2, 2] - s[1, 2] * s[2, 0])
        + s[0, 2] * (s[1, 0] * s[2, 1] - s[1, 1] * s[2, 0])
    )
    if reflections:
        determinant = abs(determinant)
    largest = mean
    if p > 1e-15 * mean:
        inverse = 1.0 / p  # before the product of three, which could underflow
        a, b, c, d, e, f = a * inverse, b * inverse, c * inverse, d * inverse, e * inverse, f * inverse
        half = 0.5 * (a * (b * c - e * e) - d * (d * c - e * f) + f * (d * e - b * f))
        largest += 2.0 * p * math.cos(math.acos(min(1.0, max(-1.0, half))) / 3.0)
    if largest <= 0.0:
        return 0.0
    # (s2 + s3)² = tr(S S^T) - s1² + 2 det(S) / s1 has no cancellation between s2 and s3, which may be equal up to the sign.
    first = math.sqrt(largest)
    return first + math.sqrt(max(0.0, 3.0 * mean - largest + 2.0 * determinant / first))


@kernel
def rotation(s, dimension, reflections, out, work):
    """Writes the orthogonal matrix R that maximises tr(R S), S = sum_i b_i a_i^T, so that R b_i lies on a_i.

    Args:
        s: (D, D) float64.
        dimension: 2 or 3.
        reflections: whether det R = -1 is allowed; where both are equally good the rotation is taken.
        out: (D, D) float64, R.
        work: (8, 4) float64 work space.
    """
    if dimension == 2:
        c = s[0, 0] + s[1, 1]
        d = s[0, 1] - s[1, 0]
        proper = math.sqrt(c * c + d * d)
        c2 = s[0, 0] - s[1, 1]
        d2 = s[0, 1] + s[1, 0]
        improper = math.sqrt(c2 * c2 + d2 * d2)
        if reflections and improper > proper:
            out[0, 0] = c2 / improper
            out[1, 0] = d2 / improper
            out[0, 1] = d2 / improper
            out[1, 1] = -c2 / improper
            return
        if proper > 0.0:
            c /= proper
            d /= proper
        else:
            c = 1.0
            d = 0.0
        out[0, 0] = c
        out[1, 0] = d
        out[0, 1] = -d
        out[1, 1] = c
        return
    k = work[:4]
    v = work[4:]
    k[0, 0] = s[0, 0] + s[1, 1] + s[2, 2]
    k[1, 1] = s[0, 0] - s[1, 1] - s[2, 2]
    k[2, 2] = -s[0, 0] + s[1, 1] - s[2, 2]
    k[3, 3] = -s[0, 0] - s[1, 1] + s[2, 2]
    k[0, 1] = s[1, 2] - s[2, 1]
    k[0, 2] = s[2, 0] - s[0, 2]
    k[0, 3] = s[0, 1] - s[1, 0]
    k[1, 2] = s[0, 1] + s[1, 0]
    k[1, 3] = s[2, 0] + s[0, 2]
    k[2, 3] = s[1, 2] + s[2, 1]
    for i in range(3):
        for j in range(i + 1, 4):
            k[j, i] = k[i, j]
    jacobi(k, v)
    high = 0
    low = 0
    for i in range(1, 4):
        if k[i, i] > k[high, high]:
            high = i
        if k[i, i] < k[low, low]:
            low = i
    sign = 1.0
    if reflections and -k[low, low] > k[high, high]:
        sign = -1.0
        high = low
    w = v[0, high]
    x = v[1, high]
    y = v[2, high]
    z = v[3, high]
    sign /= w * w + x * x + y * y + z * z
    out[0, 0] = sign * (w * w + x * x - y * y - z * z)
    out[0, 1] = sign * 2.0 * (x * y - w * z)
    out[0, 2] = sign * 2.0 * (x * z + w * y)
    out[1, 0] = sign * 2.0 * (x * y + w * z)
    out[1, 1] = sign * (w * w - x * x + y * y - z * z)
    out[1, 2] = sign * 2.0 * (y * z - w * x)
    out[2, 0] = sign * 2.0 * (x * z - w * y)
    out[2, 1] = sign * 2.0 * (y * z + w * x)
    out[2, 2] = sign * (w * w - x * x - y * y + z * z)


@kernel
def _align_batch(fixed, moving, reflections, out):
    n_batch, n, dimension = fixed.shape
    s = np.empty((dimension, dimension))
    work = np.empty((8, 4))
    for b in range(n_batch):
        s[:] = 0.0
        for i in range(n):
            for k in range(dimension):
                for m in range(dimension):
                    s[k, m] += moving[b, i, k] * fixed[b, i, m]
        rotation(s, dimension, reflections, out[b], work)


def align_batch(
    fixed: Float[np.ndarray, "B N D"], moving: Float[np.ndarray, "B N D"], *, reflections: bool = False
) -> Float[np.ndarray, "B D D"]:
    """Orthogonal matrices that lay each configuration of `moving` onto that of `fixed`, about the origin.

    Args:
        fixed: configurations, D = 2 or 3, in any unit of length.
        moving: configurations, in the same order of particles.
        reflections: allow det R = -1 where that is better.

    Returns:
        R with `fixed[b]` nearest to `moving[b] @ R[b].T` in the least squares sense.

    Raises:
        DataError: the shapes differ, or D is neither 2 nor 3.
    """
    fixed = np.ascontiguousarray(fixed, np.float64)
    moving = np.ascontiguousarray(moving, np.float64)
    if fixed.ndim != 3 or fixed.shape != moving.shape or fixed.shape[2] not in (2, 3):
        raise DataError(f"Alignment needs two arrays of one shape (B, N, 2 or 3), but the shapes are {fixed.shape} and {moving.shape}.")
    out = np.empty((fixed.shape[0], fixed.shape[2], fixed.shape[2]))
    _align_batch(fixed, moving, reflections, out)
    return out
