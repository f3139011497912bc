"""What a worker notes of its own answers: prediction log, captures, live answers, and the measurement of a bundle."""
