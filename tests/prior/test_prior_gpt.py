"""What is the GPT prior's own."""

import pytest
import torch

from prior.base import NO_LABEL


@pytest.mark.parametrize("prior", ["gpt", "gpt-rectangular", "gpt-two-level"], indirect=True)
def test_every_code_and_class_has_a_token_of_its_own(prior):
    config = prior.config
    taken = [t for s in prior.slices for t in range(s.start, s.stop)]
    labels = torch.tensor([*range(config.num_classes), NO_LABEL])
    taken += prior.class_tokens(labels).tolist()
    assert taken == list(range(sum(config.num_codes) + config.num_classes + 1))
