"""Encoder–decoders as one graph: rules of the search for tokens, the loop round the decoder, weights that both share (ADR 0096)."""
