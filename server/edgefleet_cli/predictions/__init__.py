"""`edgectl predictions` and `edgectl data`: prediction logs that are kept (ADR 0105), and who was erased from them."""
