"""Tables and pictures: of a run, of data, of speed."""
