"""Video models behind one protocol."""
