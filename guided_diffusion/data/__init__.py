"""Images in and pictures out: files, sets, labels, drawn tissue, image features, grids, plots."""
