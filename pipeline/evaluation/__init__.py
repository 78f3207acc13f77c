"""A saved policy answers questions."""
