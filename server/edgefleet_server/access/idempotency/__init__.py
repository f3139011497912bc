"""`Idempotency-Key`: a POST that is sent again is done once, and gets the answer of the first time (`middleware`, `answers`,
`store`).
"""
