"""`edgectl drift`: whether what models are asked and answer still is what they were made for."""
