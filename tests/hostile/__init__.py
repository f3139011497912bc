"""What a hostile device, file or stranger tries, against the real parts. One module for each part that is attacked."""
