"""How a data set is written, a format a file: each writes samples into a folder, and removes those of given records from it."""
