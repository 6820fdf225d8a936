"""Several processes that do one work: how they find each other, agree, and notice a loss."""
