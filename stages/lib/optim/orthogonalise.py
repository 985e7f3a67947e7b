"""The nearest semi-orthogonal matrix by Newton-Schulz iteration, with the coefficients that the field uses.

    X0 = U / ‖U‖_F;   X <- a X + (b A + c A²) X,  A = X X'

| coefficients  | one triple (a, b, c) for     | singular values end             | source                                          |
|---------------|------------------------------|---------------------------------|-------------------------------------------------|
| classical     | every iteration              | between about 0.7 and 1.2       | Jordan et al. 2024                              |
| polar_express | each of the first iterations | between about 0.86 and 1.14     | Amsel et al., arXiv:2505.16932; #1855's triples |
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
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323)),
}
EPSILON = 1e-7


def orthogonalise(update_NMK: Tensor, *, coefficients: str = "classical", iterations: int = 5) -> Tensor:
    """Approximate U V' of each matrix's SVD. The result does not depend on the scale of the input. Batched over N.

    Iterations beyond the last triple repeat it.
    """
    triples = COEFFICIENTS[coefficients]
    tall = update_NMK.size(-2) > update_NMK.size(-1)
    x_NMK = update_NMK.mT if tall else update_NMK
    x_NMK = x_NMK / (x_NMK.norm(dim=(-2, -1), keepdim=True) + EPSILON)
    for i in range(iterations):
        a, b, c = triples[min(i, len(triples) - 1)]
        gram = x_NMK @ x_NMK.mT
        x_NMK = torch.baddbmm(x_NMK, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x_NMK, beta=a)
    return x_NMK.mT if tall else x_NMK
