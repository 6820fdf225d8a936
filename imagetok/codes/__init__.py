"""Code datasets: sharded, hashed, bound to the tokenizer that made them."""
