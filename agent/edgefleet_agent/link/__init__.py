"""The device's one connection to the broker (`mqtt`) and what waits to be told (`outbox`)."""
