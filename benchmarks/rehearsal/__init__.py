"""A GPU machine that is not there: its versions and limits, the recipe's commands, and an emulated device."""
