"""Files for devices: their sizes, agreement and speed."""
