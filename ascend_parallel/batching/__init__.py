"""Pure array arithmetic: which axis holds the rows, which rows make a task, padding, joining."""
