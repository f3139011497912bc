"""The contract between the fleet server and the device: ids, messages, signed documents. Pure: no socket, file, clock."""
