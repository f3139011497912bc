"""Where the parts of a server are wired together: containers, the API app, the device app and the API's description of itself.

Only this package imports every feature; no feature may import it.
"""
