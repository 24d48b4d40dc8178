"""Orthogonal matrices that are quick to apply: randomized Hadamard matrices, and dense ones.

    R = diag(signs) · (I ⊗ F₁ ⊗ F₂ ⊗ …) · scale          [n, n]

The factors are Hadamard matrices (entries ±1, rows orthogonal): Sylvester's for powers of two,
Paley's for a factor like 12, 20, 28, 44 or 172. Multiplying by R costs Σ fᵢ operations a number and
not n. The signs, drawn at random, make the result of any one input a random one.

Where no Hadamard matrix of that size is known here, R is one dense factor, the Q of a random
matrix, uniform over the orthogonal matrices.

Sources: R. E. A. C. Paley, On orthogonal matrices, J. Math. Phys. 12 (1933), 311-320. F. Mezzadri,
How to generate random matrices from the classical compact groups, Notices AMS 54 (2007), 592-604.
S. Ashkboos et al., QuaRot (2024, arXiv:2404.00456) for their use on language models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError

__all__ = ["Rotation", "hadamard_factors", "random_rotation"]

Float32 = NDArray[np.float32]

#: a Sylvester matrix larger than this is applied as the product of smaller ones
_SYLVESTER = 64
#: the largest dense orthogonal matrix; it takes 8 n² bytes several times over to draw
DENSE_LIMIT = 4096


@dataclass(frozen=True)
class Rotation:
    """An orthogonal matrix R [n, n], block-diagonal where the factors' product is less than n.

    Attributes:
        signs: float32 [n], ±1.
        factors: float32 [f, f] each; their Kronecker product is one block, unscaled.
        scale: what makes it orthogonal.
    """

    signs: Float32
    factors: tuple[Float32, ...]
    scale: float

    @property
    def size(self) -> int:
        """n."""
        return len(self.signs)

    @property
    def block(self) -> int:
        """Rows and columns of a block; n where R is not block-diagonal."""
        return math.prod(len(factor) for factor in self.factors)

    @property
    def matrix(self) -> Float32:
        """R itself, [n, n]."""
        return self.columns(np.eye(self.size, dtype=np.float32))

    def columns(self, x: Float32) -> Float32:
        """x R for x [..., n]."""
        signed = (x * (self.signs * np.float32(self.scale))).reshape(-1, self.size, 1)
        return self._transposed_times(signed).reshape(x.shape)

    def rows(self, x: Float32, first: int = 0) -> Float32:
        """Rᵀ x for x [..., m, c], the columns of m = n; or whole blocks of it.

        Args:
            first: which of R's blocks is x's first, for m a multiple of the block.
        """
        *lead, m, c = x.shape
        signs = self.signs[first * self.block : first * self.block + m] * np.float32(self.scale)
        return self._transposed_times((x * signs[:, None]).reshape(-1, m, c)).reshape(x.shape)

    def repeated(self, count: int) -> Rotation:
        """The block-diagonal matrix of `count` copies of this one."""
        return Rotation(np.tile(self.signs, count), self.factors, self.scale)

    def _transposed_times(self, x: Float32) -> Float32:
        """(I ⊗ F₁ ⊗ F₂ ⊗ …)ᵀ along the middle axis of x [before, m, after]."""
        after = x.shape[1] * x.shape[2] // (x.shape[1] // self.block)
        for factor in self.factors:
            f = len(factor)
            after //= f
            if after == 1:
                x = x.reshape(-1, f) @ factor
            else:
                x = np.matmul(factor.T, x.reshape(-1, f, after))
        return x


def random_rotation(n: int, rng: np.random.Generator, *, block: int | None = None) -> Rotation:
    """A random orthogonal matrix: a randomized Hadamard matrix where one is known, else dense.

    Args:
        n: rows and columns.
        rng: the same state gives the same matrix.
        block: rows of a diagonal block; None for one of n.

    Raises:
        RequestError: no Hadamard matrix of that size is known, and it is too large for a dense one.
    """
    b = block or n
    assert n % b == 0
    factors = hadamard_factors(b)
    if factors is not None:
        signs = rng.choice(np.array([-1, 1], dtype=np.float32), n)
        return Rotation(signs, factors, b**-0.5)
    if b > DENSE_LIMIT:
        raise RequestError(
            f"no Hadamard matrix of {b} rows is known here, and a random orthogonal matrix of more "
            f"than {DENSE_LIMIT} would take too long; rotate heads only, or leave the rotation out"
        )
    q, r = np.linalg.qr(rng.standard_normal((b, b)))
    dense = (q * np.sign(np.diag(r))).astype(np.float32)
    return Rotation(np.ones(n, dtype=np.float32), (dense,), 1.0)


def hadamard_factors(n: int) -> tuple[Float32, ...] | None:
    """Hadamard matrices whose Kronecker product has n rows; None where none are known here."""
    odd, twos = n, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for used in range(twos + 1):
        paley = _paley(odd << used)
        if paley is not None:
            return (*([paley] if len(paley) > 1 or n == 1 else []), *_sylvester(twos - used))
    return None


def _sylvester(exponent: int) -> list[Float32]:
    """Hadamard matrices whose product has 2^exponent rows."""
    factors = []
    largest = _SYLVESTER.bit_length() - 1
    while exponent:
        take = min(exponent, largest)
        matrix = np.ones((1, 1), dtype=np.float32)
        for _ in range(take):
            matrix = np.block([[matrix, matrix], [matrix, -matrix]])
        factors.append(matrix)
        exponent -= take
    return factors


def _paley(n: int) -> Float32 | None:
    """A Hadamard matrix of n rows by Paley's constructions over the integers modulo a prime."""
    if n == 1:
        return np.ones((1, 1), dtype=np.float32)
    if n % 4:
        return None
    if _is_prime(n - 1):  # n - 1 = 3 modulo 4
        return np.eye(n, dtype=np.float32) + _conference(n - 1, -1)
    q = n // 2 - 1
    if q % 4 == 1 and _is_prime(q):
        plus = np.array([[1, 1], [1, -1]], dtype=np.float32)
        diagonal = np.array([[1, -1], [-1, -1]], dtype=np.float32)
        identity = np.eye(q + 1, dtype=np.float32)
        return np.kron(_conference(q, 1), plus) + np.kron(identity, diagonal)
    return None


def _conference(q: int, below: int) -> Float32:
    """Paley's conference matrix of a prime q: zero diagonal, ±1 elsewhere, rows orthogonal."""
    squares = np.full(q, -1, dtype=np.float32)
    squares[np.arange(1, q, dtype=np.int64) ** 2 % q] = 1
    squares[0] = 0
    at = np.arange(q)
    matrix = np.zeros((q + 1, q + 1), dtype=np.float32)
    matrix[0, 1:], matrix[1:, 0] = 1, below
    matrix[1:, 1:] = squares[(at[:, None] - at[None, :]) % q]
    return matrix


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))
