"""Nested autoencoders for multi-scale material modelling.

The package of an executable companion to Thota, Sharma Priyadarshini and
Hernandez, Mater. Horiz. 11, 700 (2024), doi:10.1039/D3MH01484C.
"""
