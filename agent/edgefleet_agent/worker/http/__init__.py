"""The local inference API of a worker: HTTP/1.1, the Open Inference Protocol v2, predict, and the status page."""
