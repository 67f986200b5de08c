"""The report on a results folder: the page, its plots and pictures, and the paper's tables with our rows."""
