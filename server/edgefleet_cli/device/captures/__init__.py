"""`edgectl capture-key` and `edgectl device capture`: inputs that devices kept, sealed for a key of the operator, fetched and
opened here.
"""
