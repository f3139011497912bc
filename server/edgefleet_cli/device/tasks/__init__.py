"""`edgectl device diag | logs | restart | tasks | ask`: what devices are asked to do once, one device or all that a selector
matches.
"""
