"""Layers and networks in pure torch: building blocks, attention, U-Nets, the network of points."""
