"""The device's one connection to the broker (`mqtt`) and what waits to be sent (`outbox`)."""

from edgefleet_agent.core.lazy_import import lazy_import

# paho asks it for a proxy where PySocks is installed; with it come HTTP and mail: a megabyte in a process that lives for years
lazy_import("urllib.request")
