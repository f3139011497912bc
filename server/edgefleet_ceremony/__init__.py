"""Files of a key ceremony: what holders of offline keys hand in, what they are asked to sign, what they answer, what it means."""
