"""Tasks that are generated in any number, most of them with a dial; a module for each."""
