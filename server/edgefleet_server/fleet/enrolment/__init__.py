"""How a machine becomes a device and proves that it is one: claim tokens, approval, certificates, device tokens."""
