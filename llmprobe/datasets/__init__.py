"""What is asked: texts, labels and groups, from anywhere."""
