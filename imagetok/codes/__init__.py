"""Code datasets: sharded, hashed, and bound to the fingerprint of their tokenizer."""
