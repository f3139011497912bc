"""`edgectl data export`: captured records as a data set for training, without anything that the privacy policy does not keep."""
