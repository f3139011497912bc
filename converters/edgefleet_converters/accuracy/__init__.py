"""How a candidate's answers are judged: the kind of each output, its metric, and what so few samples can prove."""
