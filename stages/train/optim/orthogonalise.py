"""The nearest semi-orthogonal matrix by Newton-Schulz iteration, with the coefficients that the contest's submissions use.

    X0 = U / bound(U);   X <- (a I + b A + c A²) X,  A = X X'

| coefficients  | one triple (a, b, c) for     | singular values end             | source                                          |
|---------------|------------------------------|---------------------------------|-------------------------------------------------|
| classical     | every iteration              | between about 0.7 and 1.2       | Jordan et al. 2024                              |
| polar_express | each of the first iterations | between about 0.86 and 1.14     | Amsel et al., arXiv:2505.16932; #1855's triples |

The iteration needs singular values s up to about 1, and each iteration multiplies small ones by about a. So the tighter the bound of the
largest, the fewer iterations are needed.

| bound     | is               | random 192 x 832: bound / largest s | source                                              |
|-----------|------------------|-------------------------------------|-----------------------------------------------------|
| frobenius | (Σ s²)^(1/2)     | 9.4                                 | Jordan et al. 2024                                  |
| schatten8 | (Σ s⁸)^(1/8)     | 1.4                                 | ours; = ‖(X X')²‖_F^(1/4), which the iteration has  |

A matrix with more than WIDE times as many columns as rows uses its Gram matrix, TOGETHER iterations at a time. Polynomials of A are
symmetric and commute, so the result is the same function, with only two products of X for all iterations together:

    A = X X';   P = a I + b A + c A²,  Q <- P Q,  A <- P A P  for each;   X <- Q X

n iterations are 4n - 3 products of 2 M³ operations and two of 2 M² K, instead of n and 2n. That is less work where K > 1.5 M. A holds the
squares of the singular values, and the rounding errors of small ones grow by a² per iteration. Relative to the plain form, the error in
float32 after four iterations is 4e-5 if the singular values spread over all scales, and 1e-6 if they do not; after ten iterations it could
diverge. Therefore X is computed anew after four iterations, and half precision uses the plain form.
"""

# N matrices of one shape, M rows, K columns

import torch
from torch import Tensor

COEFFICIENTS = {
    "classical": ((3.4445, -4.7750, 2.0315),),
    "polar_express": (
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ),
}
BOUNDS = ("frobenius", "schatten8")
EPSILON = 1e-7
WIDE = 1.5
TOGETHER = 4
FULL_PRECISION = (torch.float32, torch.float64)


def orthogonalise(update_NMK: Tensor, *, coefficients: str = "classical", iterations: int = 5, bound: str = "frobenius") -> Tensor:
    """Approximate U V' of each matrix's SVD. The result does not depend on the scale of the input. Batched over N.

    Iterations beyond the last triple repeat it.
    """
    triples = COEFFICIENTS[coefficients]
    chosen = [triples[min(i, len(triples) - 1)] for i in range(iterations)]
    tall = update_NMK.size(-2) > update_NMK.size(-1)
    x_NMK = update_NMK.mT if tall else update_NMK
    bound_N11 = x_NMK.norm(dim=(-2, -1), keepdim=True) + EPSILON
    gram_NMM = x_NMK @ x_NMK.mT / bound_N11**2  # scaled first, because the eighth powers of small gradients would be 0
    square_NMM = gram_NMM @ gram_NMM
    if bound == "schatten8":
        share_N11 = square_NMM.norm(dim=(-2, -1), keepdim=True).pow(0.25).clamp(min=EPSILON)
        bound_N11, gram_NMM, square_NMM = bound_N11 * share_N11, gram_NMM / share_N11**2, square_NMM / share_N11**4
    x_NMK = x_NMK / bound_N11
    is_wide = x_NMK.size(-1) > WIDE * x_NMK.size(-2) and x_NMK.dtype in FULL_PRECISION
    x_NMK = (through_gram if is_wide else plain)(x_NMK, gram_NMM, square_NMM, chosen)
    return x_NMK.mT if tall else x_NMK


def powers(x_NMK: Tensor) -> tuple[Tensor, Tensor]:
    """A = X X' and A²."""
    gram_NMM = x_NMK @ x_NMK.mT
    return gram_NMM, gram_NMM @ gram_NMM


def plain(x_NMK: Tensor, gram_NMM: Tensor, square_NMM: Tensor, triples: list[tuple[float, float, float]]) -> Tensor:
    """The iteration as written above, once for each triple, from X and its `powers`."""
    for i, (a, b, c) in enumerate(triples, 1):
        x_NMK = torch.baddbmm(x_NMK, torch.add(b * gram_NMM, square_NMM, alpha=c), x_NMK, beta=a)
        if i < len(triples):
            gram_NMM, square_NMM = powers(x_NMK)
    return x_NMK


def through_gram(x_NMK: Tensor, gram_NMM: Tensor, square_NMM: Tensor, triples: list[tuple[float, float, float]]) -> Tensor:
    """The same iteration through the Gram matrix."""
    product_NMM = None
    for i, (a, b, c) in enumerate(triples, 1):
        step_NMM = torch.add(b * gram_NMM, square_NMM, alpha=c)
        step_NMM.diagonal(dim1=-2, dim2=-1).add_(a)
        product_NMM = step_NMM if product_NMM is None else step_NMM @ product_NMM
        if i % TOGETHER == 0 or i == len(triples):
            x_NMK, product_NMM = product_NMM @ x_NMK, None
        if i < len(triples):
            gram_NMM = x_NMK @ x_NMK.mT if product_NMM is None else step_NMM @ gram_NMM @ step_NMM
            square_NMM = gram_NMM @ gram_NMM
    return x_NMK
