"""Whether a converted tokenizer makes the codes of its origin."""

import torch
from torch import Tensor

from imagetok.tokenizers.base import Tokenizer
from imagetok.tokenizers.flat import FlatTokenizer


def check_codes_agree(tokenizer: Tokenizer, images: Tensor, theirs: Tensor) -> Tensor:
    """Assert that codes are equal, except where two codes are as near within rounding; return ours.

    How many such positions there are is printed.
    """
    assert isinstance(tokenizer, FlatTokenizer)
    (ours,) = tokenizer.encode(images)
    theirs = theirs.view_as(ours).long()
    with torch.no_grad():
        h = tokenizer.encoder(tokenizer.likelihood.to_network(images))
    quantizer = tokenizer.quantizer
    z_e = quantizer._features(h).movedim(1, -1)[:, :, :, None]  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    distances = (z_e - quantizer.vectors()).square().sum(-1)  # pyright: ignore[reportOptionalOperand]
    gaps = distances.gather(-1, theirs[..., None]) - distances.gather(-1, ours[..., None])
    different = ours != theirs
    print(f"{int(different.sum())} of {ours.numel()} codes differ")  # noqa: T201
    assert bool((gaps.squeeze(-1)[different].abs() <= 1e-4 * distances.amax()).all())
    assert different.float().mean() <= 0.02
    assert ours.unique().numel() >= 10  # an agreement that says something
    return ours
