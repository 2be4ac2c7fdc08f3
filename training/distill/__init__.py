"""Distillation: what a frozen teacher's features and boxes teach a student, beside the ground truth. A method is a file."""
