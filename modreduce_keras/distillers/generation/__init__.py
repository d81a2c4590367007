"""Generation: networks that make the data of a distiller that has none."""
