"""The verbs of the command ``bus1`` in this room; the entry-point group ``bus1.commands`` names them."""
