"""Run functions in processes of their own, and end these with the process that started them."""
