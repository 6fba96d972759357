"""What a program calls that has a model, an optimizer and loaders already: range test, dry run, comparison."""
