"""The ways to run the graphs of a bundle. The library of each is imported when it is opened, not before."""
