"""From one domain to another: encode, decode, choose depths; classes of one model; points."""
