"""All that only a GPU can show, in one short slot of a machine where nothing can be installed: ``make gpu``."""
