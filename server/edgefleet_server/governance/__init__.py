"""What an auditor is given of a model: all evidence in one archive, whose manifest the server signs (ADR 0137)."""
